"""`python -m handclasp.certificate_service.worker`: one of several processes, started by their parent."""

from handclasp.certificate_service.processes import run_worker

if __name__ == "__main__":
    run_worker()
