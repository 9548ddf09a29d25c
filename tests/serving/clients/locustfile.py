"""Users of a server of `bank_bundle`, each with an adapter of its own at random. Its answers must have its labels."""

import random

from locust import HttpUser, task

LABELS = {"ia3_two": 2, "ia3_three": 3, "houlsby_four": 4, "houlsby_two": 2, "pfeiffer_five": 5}


class Reader(HttpUser):
    @task
    def read(self) -> None:
        model = random.choice(list(LABELS))
        text = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["the team won " * random.randint(1, 3)]}
        with self.client.post(f"/v2/models/{model}/infer", json={"inputs": [text]}, catch_response=True) as answer:
            if answer.status_code == 200 and answer.json()["outputs"][0]["shape"] != [1, LABELS[model]]:
                answer.failure("the labels of another adapter")
