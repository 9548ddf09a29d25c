"""Serves a bundle over HTTP, by the Open Inference Protocol and OpenAI's API. Needs neither torch nor transformers."""
