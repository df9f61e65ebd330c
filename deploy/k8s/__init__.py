"""Kubernetes: manifests for kustomize, and what makes parts of them."""
