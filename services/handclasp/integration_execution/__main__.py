"""`python -m handclasp.integration_execution`."""

from handclasp.serving.handshake_watch import handshake_watch

if __name__ == "__main__":
    with handshake_watch():
        from handclasp.integration_execution.processes import run

        run()
