"""Generates a cluster's manifests from serve_config.yaml: compose, KubeRay, the Helm chart's values, dashboards.

Everything here is a pure function from a configuration to plain objects. So a group that is added to the configuration appears in
every manifest, and a test can compare the committed files with the generated ones. Knows no engine, starts nothing.
"""
