"""Definitions of serving terms and the ways to ask for one."""

from random import Random

TERMS = {
    "latency": "Latency is the time between sending a request and getting its answer.",
    "throughput": "Throughput is how much work a server does per second, for example tokens per second.",
    "a token": ("A token is a piece of text, such as a word, a part of a word or a digit, that a language model reads and writes."),
    "a tokenizer": "A tokenizer turns text into tokens and tokens back into text.",
    "a KV cache": ("A KV cache keeps the keys and values of earlier tokens, so that each new token needs only a little work."),
    "batching": "Batching means running several requests through the model at the same time, which raises throughput.",
    "continuous batching": (
        "Continuous batching lets requests join and leave a running batch at every step, so nobody waits for the longest one."
    ),
    "quantization": ("Quantization stores the weights with fewer bits, for example int4 or int8, to save memory and time."),
    "a replica": "A replica is one running copy of a deployment. More replicas can answer more requests at once.",
    "autoscaling": "Autoscaling adds replicas when the load grows and removes them when it falls.",
    "an ingress": "An ingress is the entry point that receives every request and passes it to the right deployment.",
    "streaming": "Streaming sends every piece of the answer as soon as it is generated, instead of all at the end.",
    "a prompt": "A prompt is the text that a language model is given to answer.",
    "a context window": ("A context window is the largest number of tokens that a model can read and write in one request."),
    "time to first token": ("Time to first token is how long a client waits until the first token of the answer arrives."),
    "back-pressure": "Back-pressure means that a busy server refuses or delays new requests instead of falling over.",
    "load balancing": "Load balancing spreads requests over several replicas so that none is overloaded.",
    "a health check": "A health check is a small request that tells whether a server is ready to work.",
    "vLLM": "vLLM is an engine that serves language models quickly with paged attention and continuous batching.",
    "ONNX Runtime": "ONNX Runtime runs models in the ONNX format quickly on CPUs and GPUs.",
    "Ray Serve": "Ray Serve is a library that runs and scales model servers on a Ray cluster.",
    "Kubernetes": "Kubernetes is a system that runs containers on many machines and keeps them healthy.",
    "an API": "An API is the set of requests that a program accepts from other programs.",
    "a GPU": "A GPU is a processor that does many calculations at once, which makes language models fast.",
    "machine learning": "Machine learning means that a program learns from examples instead of fixed rules.",
    "a neural network": ("A neural network is a model made of layers of simple units whose weights are learned from data."),
    "a language model": "A language model predicts the next token of a text, and so can answer questions and write.",
    "function calling": "Function calling lets a model ask the application to run a function with given arguments.",
}


def term_question(rng: Random, term: str) -> str:
    """Ask for a term in one of many ways."""
    bare = term.split(" ", 1)[1] if term.startswith(("a ", "an ")) else term
    return rng.choice(
        (
            f"What is {term}?",
            f"What is {term}?",
            f"what is {bare}",
            f"What is {bare}?",
            f"Define {bare}.",
            f"Explain {bare}.",
            f"Explain {bare} in one sentence.",
            f"What does {bare} mean?",
            f"Explain what {term} is.",
            f"Can you explain {bare}?",
            f"In serving, what is {term}?",
            f"Tell me about {bare}.",
            f"Describe {bare} briefly.",
        )
    )
