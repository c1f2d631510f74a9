"""`python -m handclasp.certificate_service.worker`: one of several processes, started by their parent."""

from handclasp.certificate_service.main import serve
from handclasp.certificate_service.settings import CertificateServiceSettings
from handclasp.transport.worker import run_worker

if __name__ == "__main__":
    run_worker(
        "handclasp certificates", CertificateServiceSettings, lambda settings, worker: serve(settings, worker=worker)
    )
