"""Makes the Ray Serve application of a bundle."""

from __future__ import annotations

from typing import Any

from ray import serve

from adapter_export.serving.ray.arguments import Arguments
from adapter_export.serving.ray.ingress import Ingress
from adapter_export.serving.ray.replica import Replica

# Requests that a replica has at once, for each row of a batch: some run, and some wait for the next run.
_WAITING = 4
# How long an ended replica may take for its requests, besides their own limit.
_GRACE_SECONDS = 5
# The replicas' own log has a line for each request.
_LOGGING = {"enable_access_log": False}


def application(arguments: Arguments) -> Any:
    """Returns the application, of two deployments: `Ingress` and `Replica`.

    Args:
        arguments: See `Arguments`.
    """
    replica = serve.deployment(
        Replica,
        **_number(arguments),
        max_ongoing_requests=arguments.max_batch * _WAITING,
        # Those that wait in an ingress for a replica with a place; requests beyond it are refused.
        max_queued_requests=arguments.max_queue,
        ray_actor_options={"num_cpus": arguments.cpus} | ({"num_gpus": arguments.gpus} if arguments.gpus else {}),
        graceful_shutdown_timeout_s=arguments.seconds + _GRACE_SECONDS,
        logging_config=_LOGGING,
    )
    ingress = serve.deployment(
        Ingress,
        num_replicas=arguments.ingress_replicas,
        max_ongoing_requests=arguments.max_queue * _WAITING,
        # Next to Ray's proxies, which take no cores either.
        ray_actor_options={"num_cpus": 0},
        graceful_shutdown_timeout_s=arguments.seconds + _GRACE_SECONDS,
        logging_config=_LOGGING,
    )
    return ingress.bind(arguments, replica.bind(arguments))


def _number(arguments: Arguments) -> dict[str, Any]:
    """Returns the options that say how many replicas there are."""
    if arguments.max_replicas is None:
        return {"num_replicas": arguments.replicas}
    return {
        "autoscaling_config": {
            "min_replicas": arguments.min_replicas,
            "max_replicas": arguments.max_replicas,
            "target_ongoing_requests": arguments.target_requests or arguments.max_batch,
        }
    }
