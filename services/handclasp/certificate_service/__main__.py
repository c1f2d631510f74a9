"""`python -m handclasp.certificate_service`."""

from handclasp.serving.handshake_watch import handshake_watch

if __name__ == "__main__":
    with handshake_watch():
        from handclasp.certificate_service.processes import run

        run()
