package main

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/metadata"
)

type metadataSummary struct {
	Listed       int      `json:"listed"`
	Events       []string `json:"events"`
	ContentTypes []string `json:"contentTypes"` // of all answers, each once
}

// recorder notes the media type of every answer.
type recorder struct {
	next http.RoundTripper
	mu   sync.Mutex
	seen []string
}

func (r *recorder) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := r.next.RoundTrip(request)
	if err == nil {
		media := response.Header.Get("Content-Type")
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, known := range r.seen {
			if known == media {
				return response, nil
			}
		}
		r.seen = append(r.seen, media)
	}
	return response, err
}

// runMetadata lists and watches as PartialObjectMetadata, as the garbage
// collector does, while a Widget is created, labelled and deleted.
func runMetadata(args []string) error {
	flags := flag.NewFlagSet("metadata", flag.ExitOnError)
	kubeconfig := flags.String("kubeconfig", "", "kubeconfig of the cluster")
	namespace := flags.String("namespace", "default", "namespace to work in")
	version := flags.String("version", "v1", "version of the API")
	_ = flags.Parse(args)

	config, err := loadConfig(*kubeconfig)
	if err != nil {
		return err
	}
	full, err := dynamic.NewForConfig(config)
	if err != nil {
		return err
	}
	recorded := &recorder{}
	metadataConfig := metadata.ConfigFor(config)
	metadataConfig.Wrap(func(next http.RoundTripper) http.RoundTripper {
		recorded.next = next
		return recorded
	})
	client, err := metadata.NewForConfig(metadataConfig)
	if err != nil {
		return err
	}

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	objects := client.Resource(widgets(*version)).Namespace(*namespace)
	writes := full.Resource(widgets("v1")).Namespace(*namespace)
	list, err := objects.List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	stream, err := objects.Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion, AllowWatchBookmarks: true})
	if err != nil {
		return err
	}
	defer stream.Stop()

	const name = "metadata-client"
	created, err := writes.Create(ctx, newWidget(name), metav1.CreateOptions{})
	if err != nil {
		return err
	}
	patch := []byte(`{"metadata":{"labels":{"seen":"yes"},"annotations":{"ünï":"cödé"}}}`)
	if _, err := objects.Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{}); err == nil {
		return fmt.Errorf("an invalid annotation key was accepted")
	}
	patch = []byte(`{"metadata":{"labels":{"seen":"yes"},"annotations":{"note":"cödé"}}}`)
	if _, err := objects.Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("patch by the metadata client: %w", err)
	}
	got, err := objects.Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if got.UID != created.GetUID() || got.Labels["seen"] != "yes" || got.Annotations["note"] != "cödé" {
		return fmt.Errorf("PartialObjectMetadata differs from the object: %+v", got.ObjectMeta)
	}
	background := metav1.DeletePropagationBackground
	if err := objects.Delete(ctx, name, metav1.DeleteOptions{PropagationPolicy: &background, Preconditions: &metav1.Preconditions{UID: &got.UID}}); err != nil {
		return fmt.Errorf("delete by the metadata client: %w", err)
	}

	summary := metadataSummary{Listed: len(list.Items)}
	for event := range stream.ResultChan() {
		partial, ok := event.Object.(*metav1.PartialObjectMetadata)
		if event.Type == watch.Bookmark || (ok && partial.Name != name) {
			continue
		}
		if !ok {
			return fmt.Errorf("the watch delivered %s with a %T", event.Type, event.Object)
		}
		summary.Events = append(summary.Events, string(event.Type))
		if event.Type == watch.Deleted {
			break
		}
	}
	summary.ContentTypes = recorded.seen
	if err := report(&summary); err != nil {
		return err
	}
	if len(summary.Events) < 3 || summary.Events[0] != "ADDED" {
		return fmt.Errorf("the watch saw %v", summary.Events)
	}
	for _, media := range summary.ContentTypes {
		if !strings.HasPrefix(media, "application/vnd.kubernetes.protobuf") && !strings.HasPrefix(media, "application/json") {
			return fmt.Errorf("an answer came as %s", media)
		}
	}
	return nil
}
