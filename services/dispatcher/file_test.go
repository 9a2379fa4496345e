package dispatcher_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluice-tasks/sluice/pkg/errs"
	"github.com/sluice-tasks/sluice/pkg/limits"
	dispatcherv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/dispatcher/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/rpc"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/testkit/bouncer"
	"github.com/sluice-tasks/sluice/pkg/testkit/faults"
	"github.com/sluice-tasks/sluice/pkg/testkit/pgtest"
	"github.com/sluice-tasks/sluice/pkg/testkit/probe"
	"github.com/sluice-tasks/sluice/pkg/testkit/rpctest"
	"github.com/sluice-tasks/sluice/services/dispatcher"
)

const part = dispatcher.PartSize

// noise is content that looks like nothing else.
func noise(size int) []byte {
	content := make([]byte, size)
	source := rand.NewChaCha8([32]byte{7})
	_, _ = source.Read(content) // it never fails
	return content
}

func digest(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// tryPut uploads content in messages of a size.
func (w *world) tryPut(ctx context.Context, name string, content []byte, size int) (*dispatcherv1.TemporaryFile, error) {
	stream, err := w.client.PutFile(ctx)
	if err != nil {
		return nil, err
	}
	for piece := range slices.Chunk(content, size) {
		// An error is told by the answer.
		if err := stream.Send(&dispatcherv1.PutFileRequest{Name: name, Data: piece}); err != nil {
			break
		}
	}
	answer, err := stream.CloseAndRecv()
	return answer.GetFile(), err
}

func (w *world) put(t *testing.T, content []byte) *dispatcherv1.TemporaryFile {
	t.Helper()
	file, err := w.tryPut(t.Context(), "", content, part)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

func (w *world) tryGet(ctx context.Context, id string) (file *dispatcherv1.TemporaryFile, content []byte, err error) {
	stream, err := w.client.GetFile(ctx, &dispatcherv1.GetFileRequest{FileId: id})
	if err != nil {
		return nil, nil, err
	}
	for first := true; ; first = false {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return file, content, nil
		}
		if err != nil {
			return nil, nil, err
		}
		if first != (message.GetFile() != nil) || first && len(message.GetData()) > 0 || len(message.GetData()) > limits.MaxFilePart {
			return nil, nil, fmt.Errorf("message with the description %v and %d bytes", message.GetFile(), len(message.GetData()))
		}
		if first {
			file = message.GetFile()
		}
		content = append(content, message.GetData()...)
	}
}

// readable fails the test unless the file has this content.
func (w *world) readable(t *testing.T, id string, want []byte) {
	t.Helper()
	file, got, err := w.tryGet(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) || file.GetId() != id || file.GetSize() != int64(len(want)) || file.GetSha256() != digest(want) {
		t.Errorf("got %d bytes as %v, want %d", len(got), file, len(want))
	}
}

// gone fails the test unless the file is not there for clients.
func (w *world) gone(t *testing.T, id string) {
	t.Helper()
	if _, _, err := w.tryGet(t.Context(), id); !errs.Is(err, errs.FileNotFound) || status.Code(toStatus(err)) != codes.NotFound {
		t.Errorf("reading it: %v", err)
	}
}

// remains counts files in all states and their parts.
func (w *world) remains(t *testing.T) (files, parts int) {
	t.Helper()
	return pgtest.One[int](t, w, `select count(*) from temporary_file`), pgtest.One[int](t, w, `select count(*) from temporary_file_part`)
}

// cleared waits until nothing is left of any file.
func (w *world) cleared(t *testing.T) {
	t.Helper()
	probe.Eventually(t, "nothing is left of the file", func() bool {
		files, parts := w.remains(t)
		return files == 0 && parts == 0
	})
}

// age makes a file one that was last used so long ago.
func (w *world) age(t *testing.T, id string, d time.Duration) {
	t.Helper()
	pgtest.Must(t, w, 1, `update temporary_file set used_at = now() - $2::bigint * interval '1 s' where id = $1::text::uuid`, id, int64(d.Seconds()))
}

func (w *world) idle(t *testing.T, id string) time.Duration {
	t.Helper()
	seconds := pgtest.One[float64](t, w, `select extract(epoch from clock_timestamp() - used_at)::float8 from temporary_file where id = $1::text::uuid`, id)
	return time.Duration(seconds * float64(time.Second))
}

func (w *world) sweep(t *testing.T) {
	t.Helper()
	if _, err := w.service.SweepFiles(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func withFiles(ids ...string) *taskv1.TaskSpec { return &taskv1.TaskSpec{Name: "n", FileIds: ids} }

func TestFileComesBackAsItWentIn(t *testing.T) {
	w := newWorld(t, &leader{})
	for _, c := range []struct{ size, message, parts int }{
		{0, part, 1},
		{1, part, 1},
		{part - 1, part, 1},
		{part, part, 1},
		{part + 1, part, 2},
		{2 * part, part / 2, 2},
		{2*part + 17, 333_333, 3},
	} {
		t.Run(fmt.Sprintf("%d in %d", c.size, c.message), func(t *testing.T) {
			content := noise(c.size)
			file, err := w.tryPut(t.Context(), "report ä.tar", content, c.message)
			if err != nil {
				t.Fatal(err)
			}
			if c.size > 0 && file.GetName() != "report ä.tar" {
				t.Errorf("it is called %q", file.GetName())
			}
			w.readable(t, file.GetId(), content)
			got := pgtest.One[[]int64](t, w, `select array_agg(octet_length(data) order by part) from temporary_file_part where file_id = $1::text::uuid`, file.GetId())
			if len(got) != c.parts || slices.Max(got) > part || len(got) > 1 && got[0] != part {
				t.Errorf("it is stored in parts of %v, want %d", got, c.parts)
			}
		})
	}
}

func TestFileWithoutANameHasOne(t *testing.T) {
	w := newWorld(t, &leader{})
	if got := w.put(t, []byte("x")).GetName(); got != "file" {
		t.Errorf("it is called %q", got)
	}
}

func TestTinyMessagesDoNotMakeTinyRows(t *testing.T) {
	w := newWorld(t, &leader{})
	content := noise(3000)
	file, err := w.tryPut(t.Context(), "n", content, 1)
	if err != nil {
		t.Fatal(err)
	}
	w.readable(t, file.GetId(), content)
	if _, parts := w.remains(t); parts != 1 {
		t.Errorf("%d rows", parts)
	}
}

func TestUploadThatBreaksOffIsNeverSeenAndRemovedAtOnce(t *testing.T) {
	w := newWorld(t, &leader{})
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := w.client.PutFile(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := stream.Send(&dispatcherv1.PutFileRequest{Data: noise(part)}); err != nil {
			t.Fatal(err)
		}
	}
	probe.Eventually(t, "parts are stored", func() bool { _, parts := w.remains(t); return parts >= 2 })
	id := pgtest.One[string](t, w, `select id::text from temporary_file`)
	w.gone(t, id)
	// Nor does anything make it more than it is.
	if _, err := w.client.Dispatch(t.Context(), &dispatcherv1.DispatchRequest{Task: withFiles(id)}); !errs.Is(err, errs.InvalidInput) {
		t.Errorf("dispatched with half a file: %v", err)
	}
	if _, err := w.client.DeleteFile(t.Context(), &dispatcherv1.DeleteFileRequest{FileId: id}); err != nil {
		t.Errorf("deleted: %v", err)
	}
	if files, _ := w.remains(t); files != 1 {
		t.Error("who was never told of an upload has ended it")
	}
	cancel()
	w.cleared(t)
}

func TestFileThatIsTooLargeIsRefusedAndNothingOfItStays(t *testing.T) {
	const most = part + part/2
	w := worldOn(t, &leader{}, pgtest.URL(t), dispatcher.Config{MaxFile: most})
	w.readable(t, w.put(t, noise(most)).GetId(), noise(most))
	for _, size := range []int{most + 1, 8 * part} {
		_, err := w.tryPut(t.Context(), "n", noise(size), part)
		var broken *errs.Error
		if !errors.As(errs.From(err), &broken) || broken.Code != codes.InvalidArgument || !strings.Contains(broken.Message, "must be at most 1572864 bytes in all") {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	probe.Eventually(t, "only the first is left", func() bool { files, parts := w.remains(t); return files == 1 && parts == 2 })
}

func TestBrokenUploadsAreRefused(t *testing.T) {
	w := newWorld(t, &leader{})
	for name, requests := range map[string][]*dispatcherv1.PutFileRequest{
		"large message":  {{Data: noise(part + 1)}},
		"large later":    {{Data: noise(part)}, {Data: noise(part)}, {Data: noise(part + 1)}},
		"path":           {{Name: "../../etc/passwd"}},
		"up":             {{Name: ".."}},
		"zero in a name": {{Name: "a\x00"}},
		"long name":      {{Name: strings.Repeat("n", 256)}},
	} {
		stream, err := w.client.PutFile(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, request := range requests {
			if err := stream.Send(request); err != nil {
				break // the answer says why
			}
		}
		if _, err := stream.CloseAndRecv(); !errs.Is(err, errs.InvalidInput) {
			t.Errorf("%s: %v", name, err)
		}
	}
	w.cleared(t)
}

func TestUnknownFileIsNotFound(t *testing.T) {
	w := newWorld(t, &leader{})
	w.gone(t, unknownID)
	if _, err := w.client.DeleteFile(t.Context(), &dispatcherv1.DeleteFileRequest{FileId: unknownID}); err != nil {
		t.Errorf("deleted: %v", err)
	}
}

func TestUsesAreNotedToTheMinute(t *testing.T) {
	w := newWorld(t, &leader{})
	id := w.put(t, []byte("x")).GetId()
	for name, use := range map[string]func(){
		"read":     func() { w.readable(t, id, []byte("x")) },
		"dispatch": func() { w.send(t, withFiles(id)) },
	} {
		w.age(t, id, 2*time.Minute)
		use()
		if d := w.idle(t, id); d > time.Minute {
			t.Errorf("%s: last used %s ago", name, d)
		}
		w.age(t, id, 30*time.Second)
		before := pgtest.One[string](t, w, `select xmin::text from temporary_file where id = $1::text::uuid`, id)
		use()
		if after := pgtest.One[string](t, w, `select xmin::text from temporary_file where id = $1::text::uuid`, id); before != after {
			t.Errorf("%s: the row is written again after half a minute", name)
		}
	}
}

func TestFileOfATaskThatIsNotFinalCanNotBeRemoved(t *testing.T) {
	w := newWorld(t, &leader{})
	for _, state := range []task.State{task.Waiting, task.Running, task.Canceling, task.Completed, task.Failed, task.Canceled, task.Skipped} {
		t.Run(string(state), func(t *testing.T) {
			id := w.put(t, []byte("x")).GetId()
			taskID := w.inState(t, state)
			pgtest.Must(t, w, 1, `insert into task_file (file_id, task_id) values ($1::text::uuid, $2::text::uuid)`, id, taskID)
			w.age(t, id, 25*time.Hour)
			w.sweep(t)
			if state.Final() {
				w.gone(t, id)
				id = w.put(t, []byte("x")).GetId()
				pgtest.Must(t, w, 1, `insert into task_file (file_id, task_id) values ($1::text::uuid, $2::text::uuid)`, id, taskID)
			} else if d := w.idle(t, id); d > time.Minute {
				t.Errorf("the next look finds it again: last used %s ago", d)
			}
			_, err := w.client.DeleteFile(t.Context(), &dispatcherv1.DeleteFileRequest{FileId: id})
			if state.Final() {
				if err != nil {
					t.Error(err)
				}
				w.gone(t, id)
				return
			}
			if !errs.Is(err, errs.FileInUse) || status.Code(toStatus(err)) != codes.FailedPrecondition {
				t.Errorf("deleted: %v", err)
			}
			w.readable(t, id, []byte("x"))
		})
	}
}

func TestDeletedFileLeavesNothingAndItsTaskStays(t *testing.T) {
	w := newWorld(t, &leader{})
	content := noise(70 * part) // more than one transaction deletes
	id := w.put(t, content).GetId()
	done := w.send(t, withFiles(id)).GetId()
	pgtest.Must(t, w, 1, claim, done)
	pgtest.Must(t, w, 1, complete, done)
	for range 2 {
		if _, err := w.client.DeleteFile(t.Context(), &dispatcherv1.DeleteFileRequest{FileId: id}); err != nil {
			t.Error(err)
		}
		w.gone(t, id)
	}
	w.cleared(t)
	if n := pgtest.One[int](t, w, `select count(*) from task_file`); n != 0 {
		t.Errorf("%d links are left", n)
	}
	if got := w.stored(t, done).State; got != task.Completed {
		t.Errorf("the task is %s", got)
	}
}

func TestDeletedTaskLeavesItsFile(t *testing.T) {
	w := newWorld(t, &leader{})
	id := w.put(t, []byte("x")).GetId()
	done := w.send(t, withFiles(id)).GetId()
	pgtest.Must(t, w, 1, claim, done)
	pgtest.Must(t, w, 1, complete, done)
	if _, err := w.client.Delete(t.Context(), &dispatcherv1.DeleteRequest{TaskId: done}); err != nil {
		t.Fatal(err)
	}
	w.readable(t, id, []byte("x"))
}

// links are the pairs of a task's place in the order and a file's id.
func (w *world) links(t *testing.T) []string {
	t.Helper()
	return pgtest.One[[]string](t, w, `select coalesce(array_agg(t.name || ' ' || l.file_id order by t.seq, l.file_id), '{}') from task_file l join task t on t.id = l.task_id`)
}

func TestFilesAreLinkedToTheirTasksOnce(t *testing.T) {
	w := newWorld(t, &leader{})
	a, b := w.put(t, []byte("a")).GetId(), w.put(t, []byte("b")).GetId()
	w.batch(t,
		&taskv1.TaskSpec{Name: "both", FileIds: []string{b, a}},
		newSpec("none"),
		&taskv1.TaskSpec{Name: "twice", FileIds: []string{b, b}},
	)
	if diff := cmp.Diff([]string{"both " + a, "both " + b, "twice " + b}, w.links(t)); diff != "" {
		t.Error(diff)
	}
	got := pgtest.One[[]string](t, w, `select array_agg(coalesce(options ->> 'files', '') order by seq) from task`)
	if diff := cmp.Diff([]string{fmt.Sprintf(`["%s","%s"]`, b, a), "", fmt.Sprintf(`["%s","%s"]`, b, b)}, got); diff != "" {
		t.Errorf("what the executor will see: %s", diff)
	}
}

func TestUnknownFilesAreNamedAndNothingIsStored(t *testing.T) {
	w := newWorld(t, &leader{})
	good, removed := w.put(t, []byte("a")).GetId(), w.put(t, []byte("b")).GetId()
	if _, err := w.client.DeleteFile(t.Context(), &dispatcherv1.DeleteFileRequest{FileId: removed}); err != nil {
		t.Fatal(err)
	}
	_, err := w.tryBatch(t.Context(), withFiles(good), withFiles(good, unknownID), newSpec("n"),
		&taskv1.TaskSpec{Name: "n", ParentId: unknownID, FileIds: []string{removed, good, unknownID}})
	want := []string{"tasks[1].file_ids[1]", "tasks[3].parent_id", "tasks[3].file_ids[0]", "tasks[3].file_ids[2]"}
	if diff := cmp.Diff(want, broken(t, err)); diff != "" {
		t.Error(diff)
	}
	_, err = w.client.Dispatch(t.Context(), &dispatcherv1.DispatchRequest{Task: withFiles(unknownID)})
	if diff := cmp.Diff([]string{"task.file_ids[0]"}, broken(t, err)); diff != "" {
		t.Error(diff)
	}
	if n, links := w.rows(t), w.links(t); n != (rows{}) || len(links) != 0 {
		t.Errorf("stored %+v and %v", n, links)
	}
}

func TestACallWithAnUnknownFileCostsItsNeighboursNothing(t *testing.T) {
	url := pgtest.URL(t)
	w := worldOn(t, &leader{}, url, dispatcher.Defaults())
	good := w.put(t, []byte("x")).GetId()
	gate, first := w.shutBehind(t, url)
	bad, plain, filed := w.call(t.Context(), withFiles(unknownID)), w.call(t.Context(), newSpec("plain")), w.call(t.Context(), withFiles(good))
	gate.queued(t, 3)
	gate.open(t)
	first.stored(t)
	plain.stored(t)
	filed.stored(t)
	if <-bad.done; !errs.Is(bad.err, errs.InvalidInput) {
		t.Errorf("got %v", bad.err)
	}
}

func TestDispatchWithoutFilesSendsTheStatementItAlwaysSent(t *testing.T) {
	pool, sent := pgtest.Record(t, pgtest.URL(t))
	store := dispatcher.NewStore(pool)
	plain := func() *dispatcher.New {
		return &dispatcher.New{Task: task.Task{ID: unknownID, Name: "n", Deferred: true}, DomainID: task.DefaultDomainID, Args: "[]", Kwargs: "{}"}
	}
	sent.Take()
	if err := store.Insert(t.Context(), []*dispatcher.New{plain()}); err != nil {
		t.Fatal(err)
	}
	if _, err := store.MissingFiles(t.Context(), []*dispatcher.New{plain()}); err != nil {
		t.Fatal(err)
	}
	statements := sent.Take()
	if len(statements) != 1 || !strings.Contains(statements[0].SQL, "dispatcher_insert_4(") || len(statements[0].Args) != 16 {
		t.Errorf("sent %v", statements)
	}
	filed := plain()
	filed.ID, filed.Options.Files = "01234567-89ab-7def-8123-456789abcde0", []string{unknownID}
	if err := store.Insert(t.Context(), []*dispatcher.New{filed}); !errors.Is(err, dispatcher.ErrMissing) {
		t.Errorf("got %v", err)
	}
	if statements := sent.Take(); len(statements) != 1 {
		t.Errorf("with files, sent %v", statements)
	}
}

// A dispatch that has locked its file wins against any removal, whatever the file looked like when the removal began.
func TestRemovalThatMeetsADispatchLeavesTheFile(t *testing.T) {
	url := pgtest.URL(t)
	w := worldOn(t, &leader{}, url, dispatcher.Defaults())
	id := w.put(t, []byte("x")).GetId()
	w.age(t, id, 25*time.Hour)
	gate := w.shut(t, url)
	dispatch := w.call(t.Context(), withFiles(id))
	gate.reached(t) // it has its file, and waits to store its task
	w.sweep(t)      // which does not wait
	deleted := make(chan error, 1)
	go func() {
		_, err := w.client.DeleteFile(context.Background(), &dispatcherv1.DeleteFileRequest{FileId: id})
		deleted <- err
	}()
	probe.Eventually(t, "the removal waits too", func() bool { return len(gate.waiting(t)) == 2 })
	gate.open(t)
	dispatch.stored(t)
	if err := <-deleted; !errs.Is(err, errs.FileInUse) {
		t.Errorf("the removal returned %v", err)
	}
	w.sweep(t)
	w.readable(t, id, []byte("x"))
}

func TestDispatchThatMeetsARemovalIsRefused(t *testing.T) {
	for name, remove := range map[string]string{
		"delete": `select dispatcher_remove_file($1)`,
		"sweep":  `select count(*) from dispatcher_sweep_files(interval '24 h', interval '1 h', 10) where $1 <> ''`,
	} {
		for _, commits := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s commits %t", name, commits), func(t *testing.T) {
				url := pgtest.URL(t)
				w := worldOn(t, &leader{}, url, dispatcher.Defaults())
				id := w.put(t, []byte("x")).GetId()
				w.age(t, id, 25*time.Hour)
				removal := pgtest.Begin(t, pgtest.Open(t, url))
				if _, err := removal.Exec(t.Context(), remove, id); err != nil {
					t.Fatal(err)
				}
				dispatch := w.call(t.Context(), withFiles(id))
				probe.Eventually(t, "the dispatch waits", func() bool { return len((&gate{w: w}).waiting(t)) == 1 })
				if !commits {
					removal.Rollback(t)
					dispatch.stored(t)
					w.readable(t, id, []byte("x"))
					return
				}
				removal.Commit(t)
				<-dispatch.done
				if diff := cmp.Diff([]string{"task.file_ids[0]"}, broken(t, dispatch.err)); diff != "" {
					t.Error(diff)
				}
				if n := w.rows(t); n != (rows{}) {
					t.Errorf("stored %+v", n)
				}
			})
		}
	}
}

// Whoever wins: a task that was stored has its file.
func TestSweepsAndDispatchesAtOnceNeverLeaveATaskWithoutItsFile(t *testing.T) {
	url := pgtest.URL(t)
	w, other := worldOn(t, &leader{}, url, dispatcher.Defaults()), worldOn(t, &leader{}, url, dispatcher.Defaults())
	const n = 60
	ids := make([]string, n)
	for i := range ids {
		ids[i] = w.put(t, []byte("x")).GetId()
	}
	if _, err := w.Exec(t.Context(), `update temporary_file set used_at = now() - interval '25 h'`); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	stop := make(chan struct{})
	for _, service := range []*dispatcher.Service{w.service, other.service, w.service} {
		all.Go(func() {
			for {
				if _, err := service.SweepFiles(t.Context()); err != nil {
					t.Error(err)
					return
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	won := make([]bool, n)
	var dispatches sync.WaitGroup
	for i, id := range ids {
		dispatches.Go(func() {
			_, err := []*world{w, other}[i%2].client.Dispatch(t.Context(), &dispatcherv1.DispatchRequest{Task: withFiles(id)})
			if err != nil && !errs.Is(err, errs.InvalidInput) {
				t.Error(err)
			}
			won[i] = err == nil
		})
	}
	dispatches.Wait()
	close(stop)
	all.Wait()
	w.sweep(t)
	winners := 0
	for i, id := range ids {
		if won[i] {
			winners++
			w.readable(t, id, []byte("x"))
		} else {
			w.gone(t, id)
		}
	}
	t.Logf("%d of %d dispatches came before the sweep", winners, n)
	if files, _ := w.remains(t); files != winners || len(w.links(t)) != winners {
		t.Errorf("%d files and %d links are left, want %d", files, len(w.links(t)), winners)
	}
}

func TestSweepTakesWhatIsOldAndOnlyThat(t *testing.T) {
	w := worldOn(t, &leader{}, pgtest.URL(t), dispatcher.Config{FileProtection: 10 * time.Minute})
	old, young := w.put(t, noise(3*part)).GetId(), w.put(t, []byte("y")).GetId()
	w.age(t, old, 12*time.Minute)
	w.age(t, young, 10*time.Minute+30*time.Second) // a use may have been noted a minute after it was
	for id, age := range map[string]int{"00000000-0000-7000-8000-000000000001": 61, "00000000-0000-7000-8000-000000000002": 59} {
		pgtest.Must(t, w, 1, `insert into temporary_file (id, name, used_at) values ($1::text::uuid, 'upload', now() - $2::integer * interval '1 min')`, id, age)
		pgtest.Must(t, w, 1, `insert into temporary_file_part values ($1::text::uuid, 0, 'x')`, id)
	}
	w.sweep(t)
	left := pgtest.One[[]string](t, w, `select array_agg(id::text order by id) from temporary_file`)
	if diff := cmp.Diff([]string{"00000000-0000-7000-8000-000000000002", young}, left); diff != "" {
		t.Error(diff)
	}
	w.gone(t, old)
}

func TestManyOldFilesAreRemovedInSmallLots(t *testing.T) {
	w := newWorld(t, &leader{})
	pgtest.Must(t, w, 250, `insert into temporary_file (id, name, state, size, sha256, used_at)
		select gen_random_uuid(), 'n', 'complete', 0, '', now() - interval '2 days' from generate_series(1, 250)`)
	for _, want := range []int{150, 50, 0} {
		more, err := w.service.SweepFiles(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if files, _ := w.remains(t); files != want || more != (want > 0) {
			t.Errorf("%d are left, more: %t; want %d", files, more, want)
		}
	}
}

func TestUploadThatWasGivenUpMustBeginAgain(t *testing.T) {
	w := newWorld(t, &leader{})
	stream, err := w.client.PutFile(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	send := func() {
		if err := stream.Send(&dispatcherv1.PutFileRequest{Data: noise(part)}); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
	}
	send()
	probe.Eventually(t, "a part is stored", func() bool { _, parts := w.remains(t); return parts == 1 })
	id := pgtest.One[string](t, w, `select id::text from temporary_file`)
	w.age(t, id, 59*time.Minute)
	send() // is a sign of life
	probe.Eventually(t, "another part is stored", func() bool { _, parts := w.remains(t); return parts == 2 })
	if d := w.idle(t, id); d > time.Minute {
		t.Errorf("stands still since %s", d)
	}
	w.age(t, id, 61*time.Minute)
	w.sweep(t)
	send()
	if _, err := stream.CloseAndRecv(); !errs.Is(err, errs.FileNotFound) || !strings.Contains(err.Error(), "begin again") {
		t.Errorf("got %v", err)
	}
	w.cleared(t)
}

func TestUploadThatMissesAPartIsNotCompleted(t *testing.T) {
	store := dispatcher.NewStore(pgtest.New(t))
	f := &dispatcher.File{ID: unknownID, Name: "n", Size: part}
	if err := store.StartFile(t.Context(), f, noise(part)); err != nil {
		t.Fatal(err)
	}
	f.SHA256 = "d"
	for _, c := range []struct {
		size  int64
		parts int
		want  bool
	}{{part, 2, false}, {part + 1, 1, false}, {part, 1, true}, {part, 1, false}} {
		f.Size = c.size
		if done, err := store.CompleteFile(t.Context(), f, c.parts); err != nil || done != c.want {
			t.Errorf("%+v: %t, %v", c, done, err)
		}
	}
}

func TestUploadWhoseDatabaseBreaksIsNeverSeen(t *testing.T) {
	for _, c := range []struct {
		statement string
		fault     faults.Fault
	}{
		{"insert into temporary_file (", faults.CutBefore},
		{"insert into temporary_file (", faults.LoseAnswer},
		{"with touched as", faults.CutBeforeCommit},
		{"with touched as", faults.LoseAnswer},
		{"set state = 'complete'", faults.CutBeforeCommit},
		{"set state = 'complete'", faults.LoseAnswer},
	} {
		t.Run(fmt.Sprint(c.fault, " of ", c.statement), func(t *testing.T) {
			w, p := brokenWorld(t)
			armed := p.Arm(faults.Rule{Fault: c.fault, Match: faults.Committing(c.statement)})
			if _, err := w.tryPut(t.Context(), "n", noise(3*part), part); !errs.Is(err, errs.DatabaseAway) || armed.Fired() != 1 {
				t.Errorf("after %d faults: %v", armed.Fired(), err)
			}
			w.cleared(t)
			w.readable(t, w.put(t, []byte("x")).GetId(), []byte("x"))
		})
	}
}

func TestFileThatIsRemovedWhileItIsReadIsNotCutShortInSilence(t *testing.T) {
	w := newWorld(t, &leader{})
	id := w.put(t, noise(12*part)).GetId() // more than is on its way unread
	stream, err := w.client.GetFile(t.Context(), &dispatcherv1.GetFileRequest{FileId: id})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	if _, err := w.client.DeleteFile(t.Context(), &dispatcherv1.DeleteFileRequest{FileId: id}); err != nil {
		t.Fatal(err)
	}
	w.cleared(t)
	for err == nil {
		_, err = stream.Recv()
	}
	if !errs.Is(err, errs.FileNotFound) {
		t.Errorf("the reader sees %v", err)
	}
}

// As operators run it: every transaction may be on another session.
func TestFilesWorkBehindAPooler(t *testing.T) {
	direct := pgtest.URL(t)
	w := worldOn(t, &leader{}, bouncer.Start(t, direct, 2), dispatcher.Defaults())
	w.Querier = pgtest.Open(t, direct)
	content := noise(5*part + 5)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			file, err := w.tryPut(t.Context(), "n", content, 100_000)
			if err != nil {
				t.Error(err)
				return
			}
			w.readable(t, file.GetId(), content)
			if _, err := w.client.Dispatch(t.Context(), &dispatcherv1.DispatchRequest{Task: withFiles(file.GetId())}); err != nil {
				t.Error(err)
			}
			w.sweep(t)
			if _, err := w.client.DeleteFile(t.Context(), &dispatcherv1.DeleteFileRequest{FileId: file.GetId()}); !errs.Is(err, errs.FileInUse) {
				t.Errorf("deleted: %v", err)
			}
		})
	}
	all.Wait()
	pgtest.Must(t, w, 4, `update task set state = 'canceled', error = '{}', finished_at = now()`)
	pgtest.Must(t, w, 4, `update temporary_file set used_at = now() - interval '25 h'`)
	w.sweep(t)
	w.cleared(t)
}

// front is the world as seen through a gateway.
func (w *world) front(t *testing.T) *world {
	t.Helper()
	conn, _ := rpctest.Serve(t, w.service.Register)
	behind, err := rpc.DialRaw(conn.Target())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = behind.Close() })
	front := rpc.NewFront(quiet(), map[string]grpc.ClientConnInterface{dispatcherv1.DispatcherService_ServiceDesc.ServiceName: behind})
	listener, err := rpc.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- front.Serve(listener) }()
	t.Cleanup(func() {
		front.Stop(0)
		<-served
	})
	outside, err := rpc.Dial(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = outside.Close() })
	seen := *w
	seen.client = dispatcherv1.NewDispatcherServiceClient(outside)
	return &seen
}

func TestFilesPassThroughAGateway(t *testing.T) {
	w := worldOn(t, &leader{}, pgtest.URL(t), dispatcher.Config{MaxFile: 9 * part}).front(t)
	content := noise(6*part + 6)
	file := w.put(t, content)
	w.readable(t, file.GetId(), content)
	if _, err := w.tryPut(t.Context(), "n", noise(12*part), part); !errs.Is(err, errs.InvalidInput) {
		t.Errorf("a file that is too large: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := w.client.PutFile(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := stream.Send(&dispatcherv1.PutFileRequest{Data: noise(part)}); err != nil {
			t.Fatal(err)
		}
	}
	probe.Eventually(t, "it is being uploaded", func() bool {
		return pgtest.One[int](t, w, `select count(*) from temporary_file where state = 'uploading'`) == 1
	})
	cancel()
	probe.Eventually(t, "what broke off is removed", func() bool { files, parts := w.remains(t); return files == 1 && parts == 7 })
}

// dustless is a database in which there is nothing to sweep.
type dustless struct {
	*dispatcher.Store
	swept chan time.Time
}

func (d *dustless) SweepFiles(context.Context, time.Duration, time.Duration, int) ([]string, error) {
	d.swept <- time.Now()
	return nil, errors.New("away") // which ends nothing
}

func TestOldFilesAreLookedForAboutEveryMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := &dustless{swept: make(chan time.Time, 1)}
		service := dispatcher.NewService(dispatcher.Defaults(), db, noLeader{}, quiet())
		runFor(t, service.Run)
		last := time.Now()
		for range 50 {
			at := <-db.swept
			if d := at.Sub(last); d < 30*time.Second || d > 90*time.Second {
				t.Errorf("after %s", d)
			}
			last = at
		}
	})
}
