// Command clients drives the Widget API with the Go clients that its users run:
// an informer under a steady load of writes, one whose server's database is
// restored, and the metadata client in protobuf. Each subcommand prints one JSON summary and exits non-zero when what
// it saw contradicts what Kubernetes promises.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

func widgets(version string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: "custom.example.com", Version: version, Resource: "widgets"}
}

func loadConfig(path string) (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		return nil, err
	}
	config.QPS, config.Burst = 1000, 2000
	return config, nil
}

func report(summary any) error {
	return json.NewEncoder(os.Stdout).Encode(summary)
}

func main() {
	commands := map[string]func([]string) error{"informer": runInformer, "metadata": runMetadata, "restore": runRestore}
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: clients informer|metadata|restore [flags]")
		os.Exit(2)
	}
	if err := commands[os.Args[1]](os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
