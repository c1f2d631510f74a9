"""`python -m handclasp.integration_execution.worker`: one of several processes, started by their parent."""

from handclasp.serving.handshake_watch import handshake_watch

if __name__ == "__main__":
    with handshake_watch():
        from handclasp.integration_execution.main import serve
        from handclasp.integration_execution.settings import ExecutionSettings
        from handclasp.transport.worker import run_worker

        run_worker("handclasp executions", ExecutionSettings, lambda settings, worker: serve(settings, worker=worker))
