"""`python -m handclasp.integration_execution`."""

from handclasp.integration_execution.main import run

if __name__ == "__main__":
    run()
