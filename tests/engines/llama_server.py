"""The real llama.cpp HTTP server, from the PyPI wheel xllamacpp, on one GGUF file, until SIGTERM.

python llama_server.py tiny.gguf --port 8081 [--parallel 4] [--ctx 16384] [--alias NAME] [--api-key KEY]
"""

import argparse
import signal

import xllamacpp


def parameters(arguments: argparse.Namespace) -> "xllamacpp.CommonParams":
    params = xllamacpp.CommonParams()
    params.model.path = arguments.gguf
    params.model_alias = {arguments.alias} if not isinstance(params.model_alias, str) else arguments.alias
    params.n_ctx = arguments.ctx
    params.n_parallel = arguments.parallel
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.n_threads_http = arguments.http_threads
    params.hostnames = ["127.0.0.1"] if not isinstance(params.hostnames, str) else "127.0.0.1"
    params.port = arguments.port
    params.endpoint_metrics = params.endpoint_slots = True
    if arguments.embedding:
        params.embedding = True
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    params.ui = False
    if arguments.api_key:
        params.api_keys = [arguments.api_key]
    return params


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("gguf")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--parallel", type=int, default=4, help="slots (continuous batching)")
    parser.add_argument("--ctx", type=int, default=16384, help="context of all slots together")
    parser.add_argument("--http-threads", type=int, default=16)
    parser.add_argument("--alias", default="tiny")
    parser.add_argument("--api-key")
    parser.add_argument("--embedding", action="store_true", help="serve /v1/embeddings")
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    server = xllamacpp.Server(parameters(parser.parse_args()))
    print("listening at", server.listening_address, flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})


if __name__ == "__main__":
    main()
