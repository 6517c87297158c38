package main

import (
	"context"
	"strconv"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/cache"
)

// A jump is a relist after the first one: an informer learns the state at its
// end, and not what led there. client-go relists when a new watch is answered
// with anything but 429 or a refused connection, as with the 503 of an
// aggregator that had sent it to a server just killed.
type jump struct{ from, to uint64 }

// tap is what the informer asks for and is told, before any of its own logic.
type tap struct {
	sync.Mutex
	client dynamic.ResourceInterface
	given  func(runtime.Object) // told of every object and position; may be nil
	synced bool
	newest uint64 // resourceVersion seen so far
	jumps  []jump
}

func version(object runtime.Object) uint64 {
	accessor, ok := object.(interface{ GetResourceVersion() string })
	if !ok {
		return 0
	}
	parsed, _ := strconv.ParseUint(accessor.GetResourceVersion(), 10, 64)
	return parsed
}

// relisted records that the whole state at `to` was read.
func (t *tap) relisted(to uint64) {
	t.Lock()
	defer t.Unlock()
	if t.synced {
		t.jumps = append(t.jumps, jump{t.newest, to})
	}
	t.synced, t.newest = true, max(t.newest, to)
}

// skipped tells whether a relist may have stepped over a version.
func (t *tap) skipped(version uint64) bool {
	t.Lock()
	defer t.Unlock()
	for _, jump := range t.jumps {
		if jump.from < version && version <= jump.to {
			return true
		}
	}
	return false
}

func (t *tap) relists() int {
	t.Lock()
	defer t.Unlock()
	return len(t.jumps)
}

// saw watches over one event; those before the mark of a streaming list are state.
func (t *tap) saw(streaming *bool, event watch.Event) {
	if event.Type == watch.Error {
		return
	}
	t.give(event.Object)
	if *streaming {
		accessor, ok := event.Object.(interface{ GetAnnotations() map[string]string })
		if ok && event.Type == watch.Bookmark && accessor.GetAnnotations()[metav1.InitialEventsAnnotationKey] == "true" {
			*streaming = false
			t.relisted(version(event.Object))
		}
		return
	}
	t.Lock()
	defer t.Unlock()
	t.newest = max(t.newest, version(event.Object))
}

func (t *tap) give(object runtime.Object) {
	if t.given != nil {
		t.given(object)
	}
}

func (t *tap) listWatch() *cache.ListWatch {
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			list, err := t.client.List(ctx, options)
			// The inconsistency detector lists at exactly what was just streamed.
			exact := options.ResourceVersionMatch == metav1.ResourceVersionMatchExact
			if err == nil && !exact && list.GetContinue() == "" {
				t.relisted(version(list))
			}
			if err == nil {
				t.give(list)
				for i := range list.Items {
					t.give(&list.Items[i])
				}
			}
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			stream, err := t.client.Watch(ctx, options)
			if err != nil {
				return nil, err
			}
			streaming := options.SendInitialEvents != nil && *options.SendInitialEvents
			return watch.Filter(stream, func(event watch.Event) (watch.Event, bool) {
				t.saw(&streaming, event)
				return event, true
			}), nil
		},
	}
}
