package status

import (
	"context"
	"crypto/rand"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sluice-tasks/sluice/pkg/errs"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	statusv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/status/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/task"
	"github.com/sluice-tasks/sluice/pkg/wire"
)

// WatchDatabase is the SQL behind watching and waiting by filter.
type WatchDatabase interface {
	// Look finds what changed; see Look.
	Look(ctx context.Context, look Look) (*Sight, error)
	// Judge reads tasks, and tells of each which of the filters it matches. Those that do not exist are left out. rest are those
	// that had no room in the answer.
	Judge(ctx context.Context, ids []string, filters []*statusv1.Filter) (judged []Judged, rest []string, err error)
	// Current reads tasks that match and are not final, the oldest first, those with a seq above after, and at most so many. more
	// tells that there are others.
	Current(ctx context.Context, f *statusv1.Filter, after int64, most int) (tasks []*task.Task, more bool, err error)
	// Unfinished finds tasks that match and are not final, the oldest first, at most so many.
	Unfinished(ctx context.Context, f *statusv1.Filter, most int) ([]Unfinished, error)
	// Living tells which of the tasks with these numbers are not final.
	Living(ctx context.Context, seqs []int64) (map[int64]bool, error)
	// Reports reads what tasks have told of their work; how many of the tasks fit into one message does not matter here.
	Reports(ctx context.Context, tasks []*task.Task) (reports map[string]*Report, fit int, err error)
}

// Bounds of watching.
const (
	// maxWatches of one process.
	maxWatches = 1000
	// maxCurrent is how many tasks a watch tells of when it begins.
	maxCurrent = 10_000
	// batchTasks and batchBytes are what is taken from the log at a time.
	batchTasks = 100
	batchBytes = 1 << 20
	// sharedFilters is how many filters are judged for all who have them when a change is read. Who has another reads for himself.
	sharedFilters = 50
	// sharedBytes is how long one of those may be, or all of them together could be more than a statement can hold.
	sharedBytes = 16 << 10
)

// WatchTimes are the times of watching.
type WatchTimes struct {
	// Sign is how often a watch without changes gives a sign of life.
	Sign time.Duration
	// Linger is how long changes are still remembered after the last watcher has left: who comes back within it misses nothing.
	Linger time.Duration
	// Spread is the least time between two reads of what changed.
	Spread time.Duration
}

func (t WatchTimes) withDefaults() WatchTimes {
	orElse := func(d, usual time.Duration) time.Duration {
		if d == 0 {
			return usual
		}
		return d
	}
	return WatchTimes{Sign: orElse(t.Sign, 15*time.Second), Linger: orElse(t.Linger, time.Minute), Spread: orElse(t.Spread, 100*time.Millisecond)}
}

// choice is a filter that watchers have; those with the same one share it.
type choice struct {
	filter *statusv1.Filter // nil: everything matches
	key    string
	// ids are the only tasks that can match; nil if the filter does not say.
	ids   map[string]struct{}
	users int
}

// matches tells whether a change, as it was read for all, is one of the choice; known is false if it was not read for it.
func (s *choice) matches(c *change) (match, known bool) {
	if s.ids != nil {
		if _, named := s.ids[c.id]; !named {
			return false, true
		}
	}
	if c.shown == nil {
		return false, false
	}
	if s.filter == nil {
		return true, true
	}
	_, judged := c.judged[s]
	_, matched := c.matched[s]
	return matched, judged
}

// watching is what all watchers of a process share: one look at the database a second, one read of what changed, one log.
type watching struct {
	db    WatchDatabase
	log   *slog.Logger
	times WatchTimes
	// instance tells this log from those of other processes, and of this one before it was started again.
	instance string
	changes  *changeLog
	looker   looker

	mu       sync.Mutex
	watchers int
	choices  map[string]*choice
	reports  map[string]int // ids of tasks whose reports are watched, with how many watch them
	turn     string         // whose turn it is when there are too many of them
	// told are tasks that may have changed, and were not read yet. Nothing is noted while nobody watches.
	told      map[string]struct{}
	recording bool
	lost      bool
	// begun is closed when changes are found from there on; it is another one after the watching was over.
	begun chan struct{}
	wake  chan struct{}
}

func newWatching(db WatchDatabase, times WatchTimes, lookEvery time.Duration, log *slog.Logger) *watching {
	return &watching{
		db: db, log: log, times: times.withDefaults(), instance: strings.ToLower(rand.Text()[:13]),
		changes: newChangeLog(keptChanges, keptBytes), looker: looker{db: db, every: lookEvery, mostNew: mostNew, mostLive: mostLive},
		choices: map[string]*choice{}, reports: map[string]int{}, told: map[string]struct{}{},
		begun: make(chan struct{}), wake: make(chan struct{}, 1),
	}
}

// nudge wakes the loop.
func (w *watching) nudge() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// hear notes what the leader tells.
func (w *watching) hear(changes []*schedulerv1.Change) {
	w.note(len(changes), func(i int) string { return changes[i].GetTaskId() })
}

// tell notes that tasks may have changed.
func (w *watching) tell(ids ...string) {
	w.note(len(ids), func(i int) string { return ids[i] })
}

func (w *watching) note(n int, id func(int) string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.recording || n == 0 {
		return
	}
	for i := range n {
		w.told[id(i)] = struct{}{}
	}
	if len(w.told) > keptChanges {
		clear(w.told)
		w.lost = true
	}
	w.nudge()
}

// follows notes that a leader is followed from now on, or no longer.
func (w *watching) follows(leader bool) {
	w.looker.follows(leader)
	w.nudge()
}

// join adds a watcher.
func (w *watching) join(filter *statusv1.Filter, reports bool) (s *choice, leave func(), err error) {
	key, err := proto.MarshalOptions{Deterministic: true}.Marshal(filter)
	if err != nil {
		return nil, nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.watchers >= maxWatches {
		full := errs.Oversize(errs.Overloaded, "there are %d watches already", maxWatches)
		full.RetryAfter = 5 * time.Second
		return nil, nil, full
	}
	if s = w.choices[string(key)]; s == nil {
		s = &choice{filter: filter, key: string(key), ids: named(filter)}
		w.choices[s.key] = s
	}
	s.users++
	w.watchers++
	if reports {
		for id := range s.ids {
			w.reports[id]++
		}
	}
	w.nudge()
	return s, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.watchers--
		if s.users--; s.users == 0 {
			delete(w.choices, s.key)
		}
		if !reports {
			return
		}
		for id := range s.ids {
			if w.reports[id]--; w.reports[id] == 0 {
				delete(w.reports, id)
			}
		}
	}, nil
}

func (w *watching) watched() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.watchers > 0
}

// run finds changes while somebody watches, until ctx ends.
func (w *watching) run(ctx context.Context) {
	for ctx.Err() == nil {
		if !w.watched() {
			select {
			case <-w.wake:
				continue
			case <-ctx.Done():
				return
			}
		}
		w.record(ctx)
	}
}

// record finds changes until nobody has watched for a while, or ctx ends.
func (w *watching) record(ctx context.Context) {
	w.mu.Lock()
	w.recording, w.lost = true, false
	w.mu.Unlock()
	w.looker.forget()
	var look, read time.Time // when the next ones are due
	last := time.Now()
	begun := false
	for {
		now := time.Now()
		if w.watched() {
			last = now
		} else if w.ended(last) {
			return
		}
		if !now.Before(look) || w.looker.urgent() {
			if err := w.look(ctx); err != nil {
				w.log.DebugContext(ctx, "can't look for changes of tasks", slog.Any("error", err))
			} else if !begun {
				begun = true
				w.mu.Lock()
				close(w.begun)
				w.mu.Unlock()
			}
			look = time.Now().Add(w.looker.every)
		}
		due := look
		if end := last.Add(w.times.Linger); !w.watched() && end.Before(due) {
			due = end
		}
		if now = time.Now(); w.some() {
			if !now.Before(read) {
				err := w.read(ctx)
				// What is read takes a quarter of the time at most: under load, less often and more at a time.
				took := time.Since(now)
				if read = time.Now().Add(max(w.times.Spread, 3*took)); err != nil {
					w.log.DebugContext(ctx, "can't read tasks that changed", slog.Any("error", err))
					read = look
				}
			}
			if w.some() && read.Before(due) {
				due = read
			}
		}
		timer := time.NewTimer(time.Until(due))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-w.wake:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// ended ends the recording if nobody has watched since a time that is long enough ago: what a watcher saw last is a place in a log that
// is not continued. Nobody can join meanwhile, and who joins after it waits for a new beginning.
func (w *watching) ended(last time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.watchers > 0 || time.Since(last) < w.times.Linger {
		return false
	}
	w.recording, w.begun = false, make(chan struct{})
	clear(w.told)
	w.changes.forget()
	return true
}

// some reports whether there is something to read, or to say that it is lost.
func (w *watching) some() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lost || len(w.told) > 0
}

// reportsAsked is of how many tasks one look asks for their reports. Of more, some at a time are looked at in turn.
const reportsAsked = 5000

// asked are the tasks whose reports the next look is to ask for.
func (w *watching) asked() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.reports) <= reportsAsked {
		return slices.Collect(maps.Keys(w.reports))
	}
	ids := slices.Sorted(maps.Keys(w.reports))
	from, _ := slices.BinarySearch(ids, w.turn)
	ids = append(ids[from:], ids[:from]...)
	w.turn = ids[reportsAsked]
	return ids[:reportsAsked]
}

// look finds what nobody told.
func (w *watching) look(ctx context.Context) error {
	found, lost, err := w.looker.look(ctx, w.asked())
	if err != nil {
		return err
	}
	if lost {
		w.mu.Lock()
		w.lost = true
		w.mu.Unlock()
	}
	w.tell(found.changed...)
	for _, id := range found.reports {
		w.changes.add(&change{id: id, report: true})
	}
	return nil
}

// read reads some of the tasks that may have changed, for all who watch.
func (w *watching) read(ctx context.Context) error {
	w.mu.Lock()
	if w.lost {
		w.lost = false
		w.mu.Unlock()
		w.changes.forget()
		return nil
	}
	ids := make([]string, 0, min(len(w.told), readTasks))
	for id := range w.told {
		if len(ids) == readTasks {
			break
		}
		ids = append(ids, id)
		delete(w.told, id) // before it is read: what is told from now on is another change
	}
	choices := w.shared(ids)
	w.mu.Unlock()

	filters := make([]*statusv1.Filter, len(choices))
	for i, s := range choices {
		filters[i] = s.filter
	}
	tasks, rest, err := w.db.Judge(ctx, ids, filters)
	if err != nil {
		w.tell(ids...)
		return err
	}
	w.tell(rest...)
	w.looker.saw(ids, rest, tasks)
	judged := make(map[*choice]struct{}, len(choices))
	for _, s := range choices {
		judged[s] = struct{}{}
	}
	slices.SortFunc(tasks, func(a, b Judged) int { return a.Task.UpdatedAt.Compare(b.Task.UpdatedAt) })
	changes := make([]*change, len(tasks))
	for i, t := range tasks {
		c := &change{id: t.Task.ID, updated: t.Task.UpdatedAt, shown: wire.Task(t.Task), bytes: weight(t.Task), judged: judged}
		for place, matches := range t.Matches {
			if matches {
				if c.matched == nil {
					c.matched = map[*choice]struct{}{}
				}
				c.matched[choices[place]] = struct{}{}
			}
		}
		changes[i] = c
	}
	w.changes.add(changes...)
	return nil
}

// readTasks is how many tasks that changed are read at a time.
const readTasks = 500

// shared are the filters worth judging for all who have them: those that can match one of the tasks.
func (w *watching) shared(ids []string) (choices []*choice) {
	for _, s := range w.choices {
		if s.filter != nil && len(s.key) <= sharedBytes && (s.ids == nil || slices.ContainsFunc(ids, func(id string) bool { _, named := s.ids[id]; return named })) {
			choices = append(choices, s)
		}
	}
	if len(choices) > sharedFilters {
		slices.SortFunc(choices, func(a, b *choice) int { return b.users - a.users })
		choices = choices[:sharedFilters]
	}
	return choices
}

// token is where to go on after a place.
func (w *watching) token(place uint64) string {
	return w.instance + "." + strconv.FormatUint(place, 36)
}

// resume is the place of a token; ok is false if changes after it may be missing.
func (w *watching) resume(token string) (place uint64, ok bool) {
	instance, number, _ := strings.Cut(token, ".")
	place, err := strconv.ParseUint(number, 36, 64)
	return place, err == nil && instance == w.instance && w.changes.remembers(place)
}

// watchTasks tells of tasks until ctx ends.
func (s *Service) watchTasks(ctx context.Context, req *statusv1.WatchTasksRequest, send func(*statusv1.WatchTasksResponse) error) error {
	w := s.watching
	choice, leave, err := w.join(req.GetFilter(), req.GetIncludeReports())
	if err != nil {
		return err
	}
	defer leave()
	if err := s.begin(ctx); err != nil {
		return err
	}
	watch := &watch{service: s, request: req, choice: choice, send: send}
	return watch.run(ctx)
}

// beginning is closed when changes are found.
func (w *watching) beginning() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.begun
}

// patience is how long a watch may take to begin: the first look needs the database.
const patience = 5 * time.Second

// begin returns when changes are found from there on.
func (s *Service) begin(ctx context.Context) error {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-s.watching.beginning():
		return nil
	case <-timer.C:
		return errs.Away(errs.DatabaseAway, nil, "the database can't be looked at")
	case <-ctx.Done():
		return ctx.Err()
	case <-s.stopping:
		return errs.Away(errs.Stopping, nil, "this status service is stopping")
	}
}

// watch is one watcher.
type watch struct {
	service *Service
	request *statusv1.WatchTasksRequest
	choice  *choice
	send    func(*statusv1.WatchTasksResponse) error
	place   uint64
}

func (w *watch) run(ctx context.Context) error {
	all := w.service.watching
	place, ok := uint64(0), true
	resumed := w.request.GetResume() != ""
	if resumed {
		place, ok = all.resume(w.request.GetResume())
		resumed = ok
	}
	if w.place = place; !resumed {
		w.place = all.changes.place()
	}
	// While it tells of what is there, there is no place to go on: who is cut off then begins anew.
	current := w.request.GetIncludeCurrent() && !resumed
	first := &statusv1.WatchTasksResponse{Reset_: !ok}
	if !current {
		first.Resume = all.token(w.place)
	}
	if err := w.send(first); err != nil {
		return err
	}
	if current {
		if err := w.current(ctx); err != nil {
			return err
		}
		if err := w.sign(); err != nil {
			return err
		}
	}
	return w.follow(ctx)
}

// sign is a sign of life.
func (w *watch) sign() error {
	return w.send(&statusv1.WatchTasksResponse{Resume: w.service.watching.token(w.place)})
}

// current tells of the tasks that are there.
func (w *watch) current(ctx context.Context) error {
	var after int64
	for told := 0; told < maxCurrent; {
		tasks, more, err := w.service.watching.db.Current(ctx, w.choice.filter, after, min(batchTasks, maxCurrent-told))
		if err != nil {
			return err
		}
		if err := w.show(ctx, tasks, func(int) string { return "" }); err != nil {
			return err
		}
		if !more || len(tasks) == 0 {
			return nil
		}
		told += len(tasks)
		after = tasks[len(tasks)-1].Seq
	}
	return nil
}

// follow tells of changes.
func (w *watch) follow(ctx context.Context) error {
	all := w.service.watching
	ticker := time.NewTicker(all.times.Sign)
	defer ticker.Stop()
	for {
		changes, next, more, ok := all.changes.after(w.place, batchTasks, batchBytes)
		switch {
		case !ok:
			w.place = next
			if err := w.send(&statusv1.WatchTasksResponse{Resume: all.token(next), Reset_: true}); err != nil {
				return err
			}
			continue
		case len(changes) > 0:
			if err := w.pass(ctx, changes); err != nil {
				return err
			}
			w.place = next
			continue
		}
		w.place = next
		select {
		case <-more:
		case <-ticker.C:
			if err := w.sign(); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		case <-w.service.stopping:
			return errs.Away(errs.Stopping, nil, "this status service is stopping")
		}
	}
}

// pass tells of those changes that the watcher wants to know of.
func (w *watch) pass(ctx context.Context, changes []change) error {
	shown := make(map[string]*taskv1.Task, len(changes))
	var unread []string
	wanted := changes[:0]
	for i := range changes {
		c := &changes[i]
		if c.report && !w.request.GetIncludeReports() {
			continue
		}
		match, known := w.choice.matches(c)
		switch {
		case !known:
			unread = append(unread, c.id)
		case !match:
			continue
		default:
			shown[c.id] = c.shown
		}
		wanted = append(wanted, *c)
	}
	if err := w.readOwn(ctx, unread, shown); err != nil {
		return err
	}
	reports, err := w.reports(ctx, shown)
	if err != nil {
		return err
	}
	for _, c := range wanted {
		t := shown[c.id]
		if t == nil {
			continue // it does not match, or is gone
		}
		if err := w.send(&statusv1.WatchTasksResponse{Task: t, Report: reports[c.id], Resume: w.service.watching.token(c.number)}); err != nil {
			return err
		}
	}
	return nil
}

// readOwn reads tasks for this watcher alone: they were not read with its filter, or were not kept.
func (w *watch) readOwn(ctx context.Context, ids []string, shown map[string]*taskv1.Task) error {
	for len(ids) > 0 {
		tasks, rest, err := w.judge(ctx, ids)
		if err != nil {
			return err
		}
		for _, t := range tasks {
			if len(t.Matches) == 0 || t.Matches[0] {
				shown[t.Task.ID] = wire.Task(t.Task)
			}
		}
		ids = rest
	}
	return nil
}

// judge is patient with a database that is away: a watch outlives that.
func (w *watch) judge(ctx context.Context, ids []string) (tasks []Judged, rest []string, err error) {
	var filters []*statusv1.Filter
	if w.choice.filter != nil {
		filters = append(filters, w.choice.filter)
	}
	err = w.patiently(ctx, func() (err error) {
		tasks, rest, err = w.service.watching.db.Judge(ctx, ids, filters)
		return err
	})
	return tasks, rest, err
}

func (w *watch) patiently(ctx context.Context, look func() error) error {
	signed := time.Now()
	for {
		err := look()
		if err == nil || !errs.Is(err, errs.DatabaseAway) {
			return err
		}
		if time.Since(signed) >= w.service.watching.times.Sign {
			signed = time.Now()
			if err := w.sign(); err != nil { // nothing has been told since the place
				return err
			}
		}
		pause := time.NewTimer(time.Second)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return ctx.Err()
		case <-w.service.stopping:
			pause.Stop()
			return errs.Away(errs.Stopping, nil, "this status service is stopping")
		}
	}
}

// reports reads what tasks have told of their work, if the watcher wants to know.
func (w *watch) reports(ctx context.Context, shown map[string]*taskv1.Task) (found map[string]*statusv1.TaskReport, err error) {
	if !w.request.GetIncludeReports() || len(shown) == 0 {
		return nil, nil
	}
	tasks := make([]*task.Task, 0, len(shown))
	for id, t := range shown {
		tasks = append(tasks, &task.Task{ID: id, State: wire.FromState(t.GetState()), Claim: t.GetClaim()})
	}
	err = w.patiently(ctx, func() error {
		reports, _, err := w.service.watching.db.Reports(ctx, tasks)
		found = reportsOf(tasks, reports)
		return err
	})
	return found, err
}

// show tells of tasks as they are.
func (w *watch) show(ctx context.Context, tasks []*task.Task, resume func(int) string) error {
	shown := make(map[string]*taskv1.Task, len(tasks))
	for _, t := range tasks {
		shown[t.ID] = wire.Task(t)
	}
	reports, err := w.reports(ctx, shown)
	if err != nil {
		return err
	}
	for i, t := range tasks {
		if err := w.send(&statusv1.WatchTasksResponse{Task: shown[t.ID], Report: reports[t.ID], Resume: resume(i)}); err != nil {
			return err
		}
	}
	return nil
}

// named are the only tasks that can match a filter; nil if it does not say.
func named(f *statusv1.Filter) map[string]struct{} {
	if c := f.GetCondition(); c.GetField() == statusv1.TaskField_TASK_FIELD_ID {
		ids := make(map[string]struct{}, len(c.GetValues()))
		for _, id := range c.GetValues() {
			ids[id] = struct{}{}
		}
		return ids
	}
	for _, part := range f.GetAll().GetFilters() {
		if ids := named(part); ids != nil {
			return ids
		}
	}
	return nil
}
