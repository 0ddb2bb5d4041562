module snapstart.test/prometheus-operator

go 1.25.0

// Only its CustomResourceDefinitions are read (example/prometheus-operator-crd); nothing of it is built,
// so `go mod tidy` would take this line away: after a change run `go mod download -json` instead.
require github.com/prometheus-operator/prometheus-operator v0.85.0
