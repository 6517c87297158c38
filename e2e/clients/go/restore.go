package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/cache"
)

// How many revisions of before the restore are come back with.
const mostOldRevisions = 300

type restoreSummary struct {
	Revisions    int      `json:"revisions"`    // handed out in all, as far as this program saw
	Old          int      `json:"old"`          // of them before the restore
	Asked        int      `json:"asked"`        // old revisions that were watched and listed at
	Failures     int      `json:"failures"`     // writes that failed: while the database is away they must
	Violations   []string `json:"violations"`   // what must be empty
	Relists      int      `json:"relists"`      // after the first
	FinalObjects int      `json:"finalObjects"` // in the informer's store and in a fresh list
}

// book holds all that was ever handed out under a resourceVersion.
type book struct {
	sync.Mutex
	contents  map[uint64]string
	positions map[uint64]bool // of lists and bookmarks, too: they have no content
	newest    uint64
	summary   restoreSummary
}

func (b *book) violate(format string, args ...any) {
	b.Lock()
	defer b.Unlock()
	b.summary.Violations = append(b.summary.Violations, fmt.Sprintf(format, args...))
}

// note records one object or position that a client was given.
func (b *book) note(given runtime.Object) {
	at := version(given)
	object, ok := given.(*unstructured.Unstructured)
	content := ""
	if ok && object.GetName() != "" {
		text, err := json.Marshal(object.Object)
		if err != nil {
			b.violate("%s is no JSON: %v", object.GetName(), err)
		}
		content = string(text)
	}
	if at == 0 {
		b.violate("no resourceVersion: %s", content)
		return
	}
	b.Lock()
	defer b.Unlock()
	b.positions[at] = true
	b.newest = max(b.newest, at)
	if content == "" {
		return
	}
	known, was := b.contents[at]
	if was && known != content {
		b.summary.Violations = append(b.summary.Violations,
			fmt.Sprintf("resourceVersion %d was handed out twice: %s and %s", at, known, content))
	}
	b.contents[at] = content
}

// wrote records the answer to a write.
func (b *book) wrote(_ string, object *unstructured.Unstructured, err error) {
	if err == nil && object != nil {
		b.note(object)
	}
	if err != nil {
		b.Lock()
		b.summary.Failures++
		b.Unlock()
	}
}

// old gives the revisions seen so far.
func (b *book) old() ([]uint64, uint64) {
	b.Lock()
	defer b.Unlock()
	all := make([]uint64, 0, len(b.positions))
	for at := range b.positions {
		all = append(all, at)
	}
	b.summary.Old = len(all)
	return all, b.newest
}

func isGone(err error) bool { return apierrors.IsResourceExpired(err) || apierrors.IsGone(err) }

// watchIsRefused tells whether a watch from a revision is answered with 410, by the
// answer or by its first event.
func watchIsRefused(ctx context.Context, client dynamic.ResourceInterface, at string) error {
	stream, err := client.Watch(ctx, metav1.ListOptions{ResourceVersion: at})
	if err != nil {
		if isGone(err) {
			return nil
		}
		return err
	}
	defer stream.Stop()
	select {
	case event := <-stream.ResultChan():
		if event.Type == watch.Error && isGone(apierrors.FromObject(event.Object)) {
			return nil
		}
		return fmt.Errorf("the watch began with %s", event.Type)
	case <-time.After(5 * time.Second):
		return errors.New("the watch went on")
	}
}

// comeBack comes with old revisions: each is 410 for a watch and for a list of exactly then.
func (b *book) comeBack(ctx context.Context, client dynamic.ResourceInterface, old []uint64) {
	step := max(1, len(old)/mostOldRevisions)
	for i := 0; i < len(old); i += step {
		at := fmt.Sprint(old[i])
		if err := watchIsRefused(ctx, client, at); err != nil {
			b.violate("a watch from %s, of before the restore: %v", at, err)
		}
		_, err := client.List(ctx, metav1.ListOptions{
			ResourceVersion: at, ResourceVersionMatch: metav1.ResourceVersionMatchExact,
		})
		if !isGone(err) {
			b.violate("a list at %s, of before the restore: %v", at, err)
		}
		b.summary.Asked++
	}
}

// runRestore writes and holds an informer while whoever runs it restores the
// database: a line on standard input says that this is about to begin, and a
// second one that writes succeed again.
func runRestore(args []string) error {
	flags := flag.NewFlagSet("restore", flag.ExitOnError)
	kubeconfig := flags.String("kubeconfig", "", "kubeconfig of the cluster")
	namespace := flags.String("namespace", "default", "namespace to write in and to watch")
	after := flags.Duration("after", 3*time.Second, "how long to write after the restore")
	_ = flags.Parse(args)

	config, err := loadConfig(*kubeconfig)
	if err != nil {
		return err
	}
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return err
	}
	watched := client.Resource(widgets("v1")).Namespace(*namespace)
	b := &book{contents: map[uint64]string{}, positions: map[uint64]bool{}}
	tap := &tap{client: watched, given: b.note}
	informer := cache.NewSharedIndexInformer(tap.listWatch(), &unstructured.Unstructured{}, 0, nil)
	stop := make(chan struct{})
	defer close(stop)
	go informer.Run(stop)
	if !cache.WaitForCacheSync(stop, informer.HasSynced) {
		return errors.New("the informer did not sync")
	}

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var running sync.WaitGroup
	for id := range 4 {
		running.Go(func() { write(ctx, watched, id, 10*time.Millisecond, b.wrote) })
	}
	lines := bufio.NewScanner(os.Stdin)
	if !lines.Scan() {
		return errors.New("nobody said that the restore begins")
	}
	old, newest := b.old()
	if !lines.Scan() {
		return errors.New("nobody said that the restore is over")
	}
	time.Sleep(*after)
	cancel()
	running.Wait()

	background := context.Background()
	count, err := compare(background, watched, informer.GetStore())
	if err != nil {
		b.violate("%v", err)
	}
	b.comeBack(background, watched, old)
	if b.newest <= newest {
		b.violate("revisions do not go on above %d", newest)
	}
	b.summary.FinalObjects, b.summary.Revisions = count, len(b.positions)
	b.summary.Relists = tap.relists()
	if err := report(&b.summary); err != nil {
		return err
	}
	if len(b.summary.Violations) > 0 {
		return fmt.Errorf("%d violations", len(b.summary.Violations))
	}
	return nil
}
