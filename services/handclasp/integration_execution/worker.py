"""`python -m handclasp.integration_execution.worker`: one of several processes, started by their parent."""

from handclasp.integration_execution.processes import run_worker

if __name__ == "__main__":
    run_worker()
