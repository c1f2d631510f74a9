"""`python -m handclasp.integration_execution`."""

from handclasp.integration_execution.processes import run

if __name__ == "__main__":
    run()
