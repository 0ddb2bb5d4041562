module snapstart.test/agentcube

go 1.25.0

// Only its CustomResourceDefinitions are read (manifests/charts/base/crds); nothing of it is built,
// so `go mod tidy` would take this line away: after a change run `go mod download -json` instead.
require github.com/volcano-sh/agentcube v0.1.0
