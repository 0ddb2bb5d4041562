"""A real Kubernetes control plane on this machine, for tests and for the demonstration.

The programs are those that `TEST_ASSET_ETCD`, `TEST_ASSET_KUBE_APISERVER`,
`TEST_ASSET_KUBE_CONTROLLER_MANAGER`, `TEST_ASSET_KUBE_SCHEDULER`, `TEST_ASSET_KUBECTL` name, else
those in the folder `KUBEBUILDER_ASSETS`; what is left is built from published Go modules (`go/`),
once, into `build/kube`. `python -m tests.kube.assets` builds everything and prints where it is.
"""
