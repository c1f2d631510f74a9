"""`python -m handclasp.certificate_service.worker`: one of several processes, started by their parent."""

from handclasp.serving.handshake_watch import handshake_watch

if __name__ == "__main__":
    with handshake_watch():
        from handclasp.certificate_service.main import serve
        from handclasp.certificate_service.settings import CertificateServiceSettings
        from handclasp.transport.worker import run_worker

        run_worker(
            "handclasp certificates",
            CertificateServiceSettings,
            lambda settings, worker: serve(settings, worker=worker),
        )
