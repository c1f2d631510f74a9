"""`python -m handclasp.certificate_service`."""

from handclasp.certificate_service.processes import run

if __name__ == "__main__":
    run()
