"""Uses a server by NVIDIA's client: PORT MODEL SEED -> the logits by each form of request, and what the server says."""

import json
import sys

import numpy as np
import tritonclient.http as triton

port, model, seed = sys.argv[1:]
client = triton.InferenceServerClient(f"127.0.0.1:{port}", concurrency=4)
rng = np.random.default_rng(int(seed))
ids = rng.integers(5, 90, (3, 6))
arrays = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
found = {}
for binary in (True, False):
    inputs = []
    for name, value in arrays.items():
        given = triton.InferInput(name, value.shape, "INT64")
        given.set_data_from_numpy(value, binary_data=binary)
        inputs.append(given)
    asked = [triton.InferRequestedOutput("logits", binary_data=binary)]
    found[f"binary={binary}"] = client.infer(model, inputs, outputs=asked).as_numpy("logits").tolist()
    found[f"default, binary={binary}"] = client.infer(model, inputs).as_numpy("logits").tolist()
    asked = [triton.InferRequestedOutput("logits", binary_data=binary, class_count=1)]
    classes = client.infer(model, inputs, outputs=asked).as_numpy("logits")
    found[f"classes, binary={binary}"] = [text if isinstance(text, str) else text.decode() for text in classes.ravel()]
text = triton.InferInput("text", [1], "BYTES")
text.set_data_from_numpy(np.array(["the team won"], object))
found["text"] = client.infer(model, [text]).as_numpy("logits").tolist()
waiting = [client.async_infer(model, inputs) for _ in range(8)]
found["async"] = [one.get_result().as_numpy("logits").tolist() for one in waiting]
try:
    client.infer("nobody", inputs)
except triton.InferenceServerException as error:
    found["unknown"] = [error.status(), error.message()]
found["live"] = [client.is_server_live(), client.is_server_ready(), client.is_model_ready(model)]
found["outputs"] = client.get_model_metadata(model)["outputs"]
found["names"] = [one["name"] for one in client.get_model_repository_index()]
json.dump(found, sys.stdout)
