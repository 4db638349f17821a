"""Every validator of manifests, images and alerts that works without a cluster: `make check-k8s`."""
