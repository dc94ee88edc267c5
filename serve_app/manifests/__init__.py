"""Manifests of a cluster, made from serve_config.yaml: compose, KubeRay, the Helm chart's values, dashboards.

Everything here is a pure function from a configuration to plain objects, so that a group that is added to the configuration is in
every manifest, and the committed files can be compared with what the code gives. Knows no engine, starts nothing.
"""
