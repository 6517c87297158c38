package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/cache"
)

// A failure of one write: who saw it, and when.
type failure struct {
	UnixMillis int64  `json:"unixMillis"`
	Operation  string `json:"operation"`
	Error      string `json:"error"`
}

type informerSummary struct {
	Writes       int       `json:"writes"`       // acknowledged
	Events       int       `json:"events"`       // delivered to the handler
	Failures     []failure `json:"failures"`     // writes that failed
	Violations   []string  `json:"violations"`   // what must be empty
	Relists      int       `json:"relists"`      // after the first: what lies in between is not delivered
	FinalObjects int       `json:"finalObjects"` // in the informer's store and in a fresh list
}

// ledger holds what was acknowledged and what was delivered, by object and
// resourceVersion.
type ledger struct {
	sync.Mutex
	acknowledged map[string]bool
	delivered    map[string]bool
	newest       map[string]uint64 // by uid
	tap          *tap
	summary      informerSummary
}

func key(object *unstructured.Unstructured) string {
	return object.GetName() + "@" + object.GetResourceVersion()
}

func (l *ledger) violate(format string, args ...any) {
	l.summary.Violations = append(l.summary.Violations, fmt.Sprintf(format, args...))
}

// deliver records one event and checks that it is new and in order.
func (l *ledger) deliver(kind string, object *unstructured.Unstructured) {
	l.Lock()
	defer l.Unlock()
	l.summary.Events++
	id := key(object)
	if l.delivered[id] {
		l.violate("%s %s was delivered twice", kind, id)
	}
	l.delivered[id] = true
	version, err := strconv.ParseUint(object.GetResourceVersion(), 10, 64)
	if err != nil {
		l.violate("%s %s: resourceVersion is not a decimal number", kind, id)
	}
	uid := string(object.GetUID())
	if version <= l.newest[uid] {
		l.violate("%s %s came after resourceVersion %d", kind, id, l.newest[uid])
	}
	l.newest[uid] = version
}

func (l *ledger) handler() cache.ResourceEventHandlerFuncs {
	return cache.ResourceEventHandlerFuncs{
		AddFunc: func(object any) { l.deliver("ADDED", object.(*unstructured.Unstructured)) },
		UpdateFunc: func(before, after any) {
			old, updated := before.(*unstructured.Unstructured), after.(*unstructured.Unstructured)
			if old.GetResourceVersion() != updated.GetResourceVersion() {
				l.deliver("MODIFIED", updated)
			}
		},
		DeleteFunc: func(object any) {
			if gone, ok := object.(cache.DeletedFinalStateUnknown); ok {
				if l.tap.relists() == 0 {
					l.Lock()
					l.violate("the deletion of %s was missed", gone.Key)
					l.Unlock()
				}
				return
			}
			l.deliver("DELETED", object.(*unstructured.Unstructured))
		},
	}
}

// wrote records the outcome of one operation.
func (l *ledger) wrote(operation string, object *unstructured.Unstructured, err error) {
	l.Lock()
	defer l.Unlock()
	switch {
	case err == nil && object != nil:
		l.summary.Writes++
		l.acknowledged[key(object)] = true
	case err == nil:
		l.summary.Writes++
	case apierrors.IsConflict(err), apierrors.IsNotFound(err), apierrors.IsAlreadyExists(err):
		// An honest answer: an earlier attempt with an unknown outcome was applied.
	default:
		l.summary.Failures = append(l.summary.Failures,
			failure{UnixMillis: time.Now().UnixMilli(), Operation: operation, Error: err.Error()})
	}
}

func newWidget(name string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "custom.example.com/v1", "kind": "Widget",
		"metadata": map[string]any{"name": name, "labels": map[string]any{"load": "informer"}},
		"spec":     map[string]any{"image": "registry.example.com/app:1", "replicas": int64(0)},
	}}
}

// write creates, changes and deletes Widgets of one writer's own until the context
// ends, and tells `wrote` of every answer.
func write(ctx context.Context, client dynamic.ResourceInterface, id int, pause time.Duration,
	wrote func(operation string, object *unstructured.Unstructured, err error)) {
	call := context.WithoutCancel(ctx)
	for round := 0; ctx.Err() == nil; round++ {
		name := fmt.Sprintf("load-%d-%d", id, round)
		object, err := client.Create(call, newWidget(name), metav1.CreateOptions{})
		wrote("create", object, err)
		for step := 0; step < 8 && ctx.Err() == nil; step++ {
			patch := fmt.Sprintf(`{"metadata":{"annotations":{"step":"%d"}}}`, step)
			object, err := client.Patch(call, name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
			wrote("patch", object, err)
			time.Sleep(pause + rand.N(pause+1))
		}
		if round%2 == 0 {
			wrote("delete", nil, client.Delete(call, name, metav1.DeleteOptions{}))
		}
	}
}

// compare waits until the informer holds just what a fresh list holds, and gives how
// many objects that are.
func compare(ctx context.Context, client dynamic.ResourceInterface, store cache.Store) (int, error) {
	var difference error
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		list, err := client.List(ctx, metav1.ListOptions{})
		if err != nil {
			difference = err
			continue
		}
		held := map[string]bool{}
		for _, object := range store.List() {
			held[key(object.(*unstructured.Unstructured))] = true
		}
		difference = nil
		if len(held) != len(list.Items) {
			difference = fmt.Errorf("the informer holds %d objects, a list %d", len(held), len(list.Items))
		}
		for i := range list.Items {
			if !held[key(&list.Items[i])] {
				difference = fmt.Errorf("the informer does not hold %s", key(&list.Items[i]))
			}
		}
		if difference == nil {
			return len(held), nil
		}
	}
	return 0, difference
}

func runInformer(args []string) error {
	flags := flag.NewFlagSet("informer", flag.ExitOnError)
	kubeconfig := flags.String("kubeconfig", "", "kubeconfig of the cluster")
	namespace := flags.String("namespace", "default", "namespace to write in and to watch")
	duration := flags.Duration("duration", 20*time.Second, "how long to write")
	writers := flags.Int("writers", 4, "concurrent writers")
	pause := flags.Duration("pause", 20*time.Millisecond, "mean pause between a writer's operations")
	_ = flags.Parse(args)

	config, err := loadConfig(*kubeconfig)
	if err != nil {
		return err
	}
	config.Timeout = 0
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return err
	}
	watched := client.Resource(widgets("v1")).Namespace(*namespace)

	l := &ledger{acknowledged: map[string]bool{}, delivered: map[string]bool{}, newest: map[string]uint64{}}
	tap := &tap{client: watched}
	informer := cache.NewSharedIndexInformer(tap.listWatch(), &unstructured.Unstructured{}, 0, nil)
	l.tap = tap
	if _, err := informer.AddEventHandler(l.handler()); err != nil {
		return err
	}
	stop := make(chan struct{})
	defer close(stop)
	go informer.Run(stop)
	if !cache.WaitForCacheSync(stop, informer.HasSynced) {
		return errors.New("the informer did not sync")
	}

	ctx, cancel := context.WithTimeout(context.Background(), *duration)
	defer cancel()
	var running sync.WaitGroup
	for id := range *writers {
		running.Go(func() { write(ctx, watched, id, *pause, l.wrote) })
	}
	running.Wait()

	count, err := compare(context.Background(), watched, informer.GetStore())
	l.Lock()
	defer l.Unlock()
	l.summary.FinalObjects = count
	if err != nil {
		l.violate("%v", err)
	}
	l.summary.Relists = tap.relists()
	for id := range l.acknowledged {
		_, text, _ := strings.Cut(id, "@")
		version, _ := strconv.ParseUint(text, 10, 64)
		if !l.delivered[id] && !tap.skipped(version) {
			l.violate("the acknowledged write %s was never delivered", id)
		}
	}
	if err := report(&l.summary); err != nil {
		return err
	}
	if len(l.summary.Violations) > 0 {
		return fmt.Errorf("%d violations", len(l.summary.Violations))
	}
	return nil
}
