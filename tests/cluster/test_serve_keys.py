"""The keys of Serve's half that `phi-serve validate` knows are those of the locked Ray."""

from serve_app.validation.serve_half import KEYS


def test_serves_keys_are_those_of_the_locked_ray() -> None:
    from ray.serve import schema
    from ray.serve.config import AutoscalingConfig

    models = {
        "root": schema.ServeDeploySchema,
        "application": schema.ServeApplicationSchema,
        "deployment": schema.DeploymentSchema,
        "ray_actor_options": schema.RayActorOptionsSchema,
        "http_options": schema.HTTPOptionsSchema,
        "grpc_options": schema.gRPCOptionsSchema,
        "logging_config": schema.LoggingConfig,
        "autoscaling_config": AutoscalingConfig,
    }
    for name, model in models.items():
        assert KEYS[name] == frozenset(getattr(model, "model_fields", None) or model.__fields__), name
