package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sluice-tasks/sluice/pkg/errs"
	heartbeatv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/heartbeat/v1"
	schedulerv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/scheduler/v1"
	taskv1 "github.com/sluice-tasks/sluice/pkg/pb/sluice/task/v1"
	"github.com/sluice-tasks/sluice/pkg/run"
)

// CrowdConfig describes a crowd of simulated executors.
type CrowdConfig struct {
	// TTL is what each registers with, and a quarter of it the pause between its beats.
	TTL time.Duration
	// Connections are shared by all: a few, as executors behind one proxy would. At least one.
	Connections []grpc.ClientConnInterface
	// Versions are what each has.
	Versions map[string]string
	// Opening is how many are opened at once; 0 means 64, which keeps two cores busy and the rest of them alive.
	Opening int
}

const (
	defaultOpening = 64
	beatsInTTL     = 4 // as a real executor has it
	pulsesToDeaf   = 3 // likewise: unheard for so many pulses it breaks its line off
	crowdCallLimit = 15 * time.Second
)

// Crowd is many executors in one process that do all that real ones do on the wire, and whose tasks do nothing: each registers,
// beats on a stream of its own and says with each beat what it hears of the scheduler, holds a line to the scheduler, answers its
// pulses, acknowledges assignments, begins what it is told to and reports the end at once.
type Crowd struct {
	config CrowdConfig
	name   string // of all members, in front of their numbers
	began  time.Time
	// opening has a token for each executor that may be opened now.
	opening chan struct{}

	life context.Context //nolint:containedctx // of all members, which outlive the calls of Grow
	end  context.CancelFunc
	all  sync.WaitGroup

	// members each end one and wait for its goodbye. Only Grow changes them.
	members []func()

	beating, welcomed                                                        atomic.Int64
	registered, beats, pulses, tasks, deaf, brokenLines, brokenBeats, fenced atomic.Int64
	// trouble is the last error of any member.
	trouble atomic.Pointer[string]
}

// CrowdReport is what became of a crowd so far.
type CrowdReport struct {
	// Members is how many were asked for, Beating and Welcomed how many have a confirmed beat and a line to the leader.
	Members, Beating, Welcomed int64
	// What was done, and what went wrong: lines that broke or fell silent, streams of beats that broke, lives that were ended.
	Registered, Beats, Pulses, Tasks       int64
	Deaf, BrokenLines, BrokenBeats, Fenced int64
	// Trouble is the last thing that went wrong.
	Trouble string
	// CPU is the processor time of the process in which the crowd lives, in seconds, and RSS its memory in bytes.
	CPU float64
	RSS int64
}

// NewCrowd makes an empty one.
func NewCrowd(config CrowdConfig) *Crowd {
	if config.Opening <= 0 {
		config.Opening = defaultOpening
	}
	c := &Crowd{
		config: config, name: "idle-" + uuid.NewString()[:8] + "-", began: time.Now(), opening: make(chan struct{}, config.Opening),
	}
	c.life, c.end = context.WithCancel(context.Background()) //nolint:forbidigo // see the field
	return c
}

// Grow adds executors until there are n, or has the last ones say goodbye, and returns when all that are left are connected.
func (c *Crowd) Grow(ctx context.Context, n int) error {
	for len(c.members) > n {
		c.members[len(c.members)-1]()
		c.members = c.members[:len(c.members)-1]
	}
	for len(c.members) < n {
		select {
		case c.opening <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		c.members = append(c.members, c.add(len(c.members)))
	}
	for c.welcomed.Load() < int64(n) || c.beating.Load() < int64(n) {
		if !run.Pause(ctx, 20*time.Millisecond) {
			return fmt.Errorf("open %d executors: %d beat and %d have a line; the last trouble was %q", n, c.beating.Load(), c.welcomed.Load(), c.Report().Trouble)
		}
	}
	return nil
}

// add starts one, for which a token was taken.
func (c *Crowd) add(number int) (end func()) {
	m := &member{crowd: c, name: c.name + strconv.Itoa(number), conn: c.config.Connections[number%len(c.config.Connections)]}
	ctx, cancel := context.WithCancel(c.life)
	ended := make(chan struct{})
	c.all.Go(func() {
		defer close(ended)
		defer cancel()
		m.live(ctx)
	})
	return func() {
		cancel()
		<-ended
	}
}

// Report says how the crowd is doing.
func (c *Crowd) Report() CrowdReport {
	r := CrowdReport{
		Members: int64(len(c.members)), Beating: c.beating.Load(), Welcomed: c.welcomed.Load(),
		Registered: c.registered.Load(), Beats: c.beats.Load(), Pulses: c.pulses.Load(), Tasks: c.tasks.Load(),
		Deaf: c.deaf.Load(), BrokenLines: c.brokenLines.Load(), BrokenBeats: c.brokenBeats.Load(), Fenced: c.fenced.Load(),
	}
	if said := c.trouble.Load(); said != nil {
		r.Trouble = *said
	}
	if spent, err := ownCPU(); err == nil {
		r.CPU = spent.Seconds()
	}
	r.RSS = ownRSS()
	return r
}

// Close says goodbye for all of them.
func (c *Crowd) Close() {
	c.end()
	c.all.Wait()
}

func (c *Crowd) went(wrong error) {
	text := wrong.Error()
	c.trouble.Store(&text)
}

// member is one executor of a crowd.
type member struct {
	crowd *Crowd
	name  string
	conn  grpc.ClientConnInterface

	incarnation string
	hellos      int64
	// epoch is the leadership that welcomed it, 0 while it has no line; heard is when the line last said something, in
	// nanoseconds since the crowd began.
	epoch, heard atomic.Int64
}

// live has one life after the other until ctx ends. It begins with a token of those who may be opened.
func (m *member) live(ctx context.Context) {
	token := true
	give := func() {
		if token {
			token = false
			<-m.crowd.opening
		}
	}
	defer give()
	for ctx.Err() == nil {
		if !token {
			select {
			case m.crowd.opening <- struct{}{}:
				token = true
			case <-ctx.Done():
				return
			}
		}
		if err := m.register(ctx); err != nil {
			m.crowd.went(err)
			give()
			run.Pause(ctx, jittered(time.Second))
			continue
		}
		life, over := context.WithCancel(ctx)
		var streams sync.WaitGroup
		opened := make(chan struct{}, 2)
		streams.Go(func() {
			defer over()
			m.keep(life, m.beatOn, opened, &m.crowd.brokenBeats)
		})
		streams.Go(func() {
			defer over()
			m.keep(life, m.acquire, opened, &m.crowd.brokenLines)
		})
		for range cap(opened) {
			select {
			case <-opened:
			case <-life.Done():
			}
		}
		give()
		streams.Wait()
		over()
		if ctx.Err() == nil {
			m.crowd.fenced.Add(1)
		}
	}
	m.deregister(ctx)
}

func (m *member) register(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, crowdCallLimit)
	defer cancel()
	answer, err := heartbeatv1.NewHeartbeatServiceClient(m.conn).Register(ctx, &heartbeatv1.RegisterRequest{
		Name: m.name, Kind: heartbeatv1.Kind_KIND_WORKER, Versions: m.crowd.config.Versions, Ttl: durationpb.New(m.crowd.config.TTL),
	})
	if err != nil {
		return fmt.Errorf("register: %w", err)
	}
	m.incarnation = answer.GetIncarnation()
	m.crowd.registered.Add(1)
	return nil
}

func (m *member) deregister(ctx context.Context) {
	if m.incarnation == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), crowdCallLimit)
	defer cancel()
	_, _ = heartbeatv1.NewHeartbeatServiceClient(m.conn).Deregister(ctx, &heartbeatv1.DeregisterRequest{Incarnation: m.incarnation}) // else its time runs out
}

// keep has a stream opened again whenever it breaks, until ctx ends or the life is over.
func (m *member) keep(ctx context.Context, hold func(context.Context, func()) error, opened chan<- struct{}, broken *atomic.Int64) {
	tell := sync.OnceFunc(func() { opened <- struct{}{} })
	for {
		err := hold(ctx, tell)
		if ctx.Err() != nil || errs.Is(err, errs.Fenced) {
			return
		}
		broken.Add(1)
		m.crowd.went(err)
		if !run.Pause(ctx, jittered(time.Second)) {
			return
		}
	}
}

// beatOn beats until the stream breaks: at once, and then evenly, each executor at a moment of its own.
func (m *member) beatOn(ctx context.Context, opened func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := heartbeatv1.NewHeartbeatServiceClient(m.conn).Beat(ctx)
	if err != nil {
		return fmt.Errorf("open the stream of beats: %w", err)
	}
	pause, beating := time.Duration(rand.Int64N(int64(m.crowd.config.TTL/beatsInTTL))), false
	defer func() {
		if beating {
			m.crowd.beating.Add(-1)
		}
	}()
	for {
		beat := &heartbeatv1.BeatRequest{Incarnation: m.incarnation}
		if epoch := m.epoch.Load(); epoch > 0 {
			silent := time.Since(m.crowd.began) - time.Duration(m.heard.Load())
			beat.Hearing = &heartbeatv1.Hearing{Epoch: epoch, SilentFor: durationpb.New(max(0, silent))}
		}
		_ = stream.Send(beat) // what a failed Send means is only known from Recv
		if _, err := stream.Recv(); err != nil {
			return fmt.Errorf("receive the confirmation of a beat: %w", err)
		}
		m.crowd.beats.Add(1)
		if !beating {
			beating = true
			m.crowd.beating.Add(1)
			opened()
		}
		if !run.Pause(ctx, pause) {
			return ctx.Err()
		}
		pause = m.crowd.config.TTL / beatsInTTL
	}
}

// acquire holds a line to the scheduler until it breaks. All is said by the goroutine that listens: there is little of it.
func (m *member) acquire(ctx context.Context, opened func()) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stream, err := schedulerv1.NewSchedulerServiceClient(m.conn).Acquire(ctx)
	if err != nil {
		return fmt.Errorf("open the line: %w", err)
	}
	m.hellos++
	_ = stream.Send(&schedulerv1.AcquireRequest{Message: &schedulerv1.AcquireRequest_Hello{Hello: &schedulerv1.Hello{
		Executor: m.name, Incarnation: m.incarnation, Slots: 1, ImmediateSlots: 1, TaskNames: []string{taskName},
		Versions: m.crowd.config.Versions, Line: m.hellos,
	}}})
	silence := time.AfterFunc(crowdCallLimit, func() { cancel(errUnheard) })
	defer silence.Stop()
	first, err := stream.Recv()
	if err != nil {
		return errors.Join(fmt.Errorf("say hello: %w", err), context.Cause(ctx))
	}
	welcome := first.GetWelcome()
	if welcome == nil {
		return errors.New("say hello: the scheduler answered with something else than a welcome")
	}
	patience := pulsesToDeaf * welcome.GetPulseEvery().AsDuration()
	if patience <= 0 {
		silence.Stop()
	}
	m.heard.Store(int64(time.Since(m.crowd.began)))
	m.epoch.Store(welcome.GetEpoch())
	m.crowd.welcomed.Add(1)
	defer func() {
		m.epoch.Store(0)
		m.crowd.welcomed.Add(-1)
	}()
	opened()
	for {
		if patience > 0 {
			silence.Reset(patience)
		}
		message, err := stream.Recv()
		if errors.Is(context.Cause(ctx), errUnheard) {
			m.crowd.deaf.Add(1)
			return errUnheard
		}
		if err != nil {
			return fmt.Errorf("the line broke: %w", err)
		}
		m.heard.Store(int64(time.Since(m.crowd.began)))
		if err := m.answer(stream, message); err != nil && !errors.Is(err, io.EOF) { // of EOF, Recv knows more
			return err
		}
	}
}

var errUnheard = errors.New("the scheduler was not heard for three pulses")

// answer says what there is to say to one message.
func (m *member) answer(stream grpc.BidiStreamingClient[schedulerv1.AcquireRequest, schedulerv1.AcquireResponse], message *schedulerv1.AcquireResponse) error {
	if pulse := message.GetPulse(); pulse != nil {
		m.crowd.pulses.Add(1)
		return stream.Send(&schedulerv1.AcquireRequest{Message: &schedulerv1.AcquireRequest_Pulse{Pulse: &schedulerv1.Pulse{Number: pulse.GetNumber()}}})
	}
	report := &schedulerv1.Report{}
	for _, a := range message.GetOrders().GetAssign() {
		report.Acknowledged = append(report.GetAcknowledged(), &schedulerv1.Claim{TaskId: a.GetTaskId(), Claim: a.GetClaim()})
	}
	for _, c := range message.GetOrders().GetBegin() {
		m.crowd.tasks.Add(1)
		report.Finished = append(report.GetFinished(), &schedulerv1.Finish{Claim: c, Outcome: &taskv1.Outcome{State: taskv1.State_STATE_COMPLETED}})
	}
	if len(report.GetAcknowledged()) == 0 && len(report.GetFinished()) == 0 {
		return nil
	}
	return stream.Send(&schedulerv1.AcquireRequest{Message: &schedulerv1.AcquireRequest_Report{Report: report}})
}

// jittered is half of d to all of it.
func jittered(d time.Duration) time.Duration { return d/2 + time.Duration(rand.Int64N(int64(d/2))) }
