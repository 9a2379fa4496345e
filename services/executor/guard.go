package executor

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/sluice-tasks/sluice/pkg/worker/guard"
)

// executorEnv is the variable by which the processes of one executor are known, wherever they moved to and whoever of them has
// died: each of its children has it, and all that they start. What hides it on purpose is found only below those that have it.
const executorEnv = "SLUICE_EXECUTOR_TREE"

// newMark makes a mark for the processes of one executor.
func newMark() string { return executorEnv + "=" + uuid.NewString() }

var errNotChild = errors.New("this program was started as the child of an executor, and did not ask worker.IsChild, before all else, what it is to be")

// sentry keeps a guard at the executor's side: a process that ends the executor's children when the executor can't, because it is
// stopped or dead. When the guard dies, another takes its place, and is told where things stand.
type sentry struct {
	// env is the environment of children.
	env []string
	// patience is how long a guard may take to come, or to go.
	patience time.Duration
	log      *slog.Logger
	// command makes the command of a guard, and our end of the line to it.
	command func(env []string) (*exec.Cmd, *os.File, error)
	keeper  sync.WaitGroup

	mu     sync.Mutex
	orders guard.Orders
	// post is the guard that is on duty, nil while there is none.
	post *post
	// closed is closed when none is wanted any more.
	closed chan struct{}
}

// post is one guard process.
type post struct {
	cmd  *exec.Cmd
	line net.Conn
}

// sayFor is how long a guard may take to read before it is taken for dead. There is room for hundreds of orders in the line.
const sayFor = time.Second

func newSentry(config Config, env []string, mark string, log *slog.Logger) *sentry {
	return &sentry{
		env: env, patience: config.StartTimeout, log: log, command: guard.Command, closed: make(chan struct{}),
		// The guard acts in the last quarter of the time to live, at most. When that is over too, the heartbeat service knows by itself.
		orders: guard.Orders{Executor: os.Getpid(), Mark: mark, Heartbeat: config.HeartbeatAddr, TellFor: config.TTL / 3},
	}
}

// open starts the guard and waits until it is on duty.
func (s *sentry) open() error {
	p, err := s.begin()
	if err != nil {
		return fmt.Errorf("start the executor's guard: %w", err)
	}
	s.keeper.Go(func() { s.keep(p) })
	return nil
}

// close lets the guard go, and waits until it has.
func (s *sentry) close() {
	s.mu.Lock()
	close(s.closed)
	s.orders.Goodbye = true
	s.sayLocked()
	if p := s.post; p != nil {
		// One that does not hear, because somebody has stopped it, is of no use.
		late := time.AfterFunc(s.patience, func() { _ = p.cmd.Process.Kill() })
		defer late.Stop()
	}
	s.mu.Unlock()
	s.keeper.Wait()
}

func (s *sentry) begins(incarnation string, until int64) {
	s.order(func(o *guard.Orders) { o.Incarnation, o.Until = incarnation, until })
}

func (s *sentry) extended(until int64) {
	s.order(func(o *guard.Orders) { o.Until = until })
}

func (s *sentry) over() {
	s.order(func(o *guard.Orders) { o.Incarnation, o.Until = "", 0 })
}

// keepers are told of the lives of the executor's own station: the guard, and the directory.
type keepers struct {
	sentry *sentry
	home   *home
}

func (k keepers) begins(incarnation string, until int64) {
	k.home.remember(incarnation)
	k.sentry.begins(incarnation, until)
}

func (k keepers) extended(until int64) { k.sentry.extended(until) }

// over is nothing to the directory: nobody may have been told yet that the life is over, and who is told twice does not mind.
func (k keepers) over() { k.sentry.over() }

func (s *sentry) order(change func(*guard.Orders)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.orders)
	s.sayLocked()
}

// sayLocked tells the guard where things stand. One that can't be told is ended, and the next is told.
func (s *sentry) sayLocked() {
	if s.post == nil {
		return
	}
	if err := s.post.say(s.orders); err != nil {
		s.log.Error("the executor's guard takes no orders", slog.Any("error", err))
		_ = s.post.cmd.Process.Kill()
	}
}

// keep sees to it that there is a guard until none is wanted.
func (s *sentry) keep(p *post) {
	delays := newDelays(50*time.Millisecond, time.Second)
	for {
		how := p.serve(s.log)
		s.mu.Lock()
		s.post = nil
		s.mu.Unlock()
		for {
			select {
			case <-s.closed:
				return
			default:
			}
			s.log.Error("the executor has no guard, starting another", slog.Any("error", how))
			if p, how = s.begin(); how == nil {
				s.log.Info("the executor has a guard again")
				delays.Reset()
				break
			}
			select {
			case <-time.After(delays.NextBackOff()):
			case <-s.closed:
				return
			}
		}
	}
}

// begin starts a guard, tells it where things stand, and waits until it is on duty.
func (s *sentry) begin() (*post, error) {
	cmd, ours, err := s.command(s.env)
	if err != nil {
		return nil, err
	}
	conn, err := net.FileConn(ours) // a duplicate
	if err := errors.Join(err, ours.Close()); err != nil {
		return nil, errors.Join(fmt.Errorf("open the line: %w", err), cmd.ExtraFiles[0].Close())
	}
	if err := errors.Join(cmd.Start(), cmd.ExtraFiles[0].Close()); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	p := &post{cmd: cmd, line: conn}
	if err := s.install(p); err != nil {
		s.mu.Lock()
		s.post = nil
		s.mu.Unlock()
		_ = cmd.Process.Kill()
		return nil, fmt.Errorf("%w (%w)", err, p.dismiss())
	}
	return p, nil
}

// install makes a guard that was just started the one that is on duty.
func (s *sentry) install(p *post) error {
	s.mu.Lock()
	err := p.say(s.orders)
	if err == nil {
		s.post = p // from here on it hears of changes, in their order
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	if err := p.line.SetReadDeadline(time.Now().Add(s.patience)); err != nil {
		return err
	}
	if _, err := p.hear(); err != nil {
		return fmt.Errorf("it did not come on duty; the program must ask worker.IsChild before all else: %w", err)
	}
	return p.line.SetReadDeadline(time.Time{})
}

// serve passes on what a guard says until it ends, and returns how.
func (p *post) serve(log *slog.Logger) error {
	for {
		note, err := p.hear()
		switch {
		case err != nil:
			return p.dismiss()
		case note.Error != "":
			log.Error("the lease was over, and the guard could not end all processes of the tasks", slog.Int("killed", note.Killed), slog.String("error", note.Error))
		default:
			log.Warn("the lease was over, and the guard ended the processes of the tasks", slog.Int("killed", note.Killed))
		}
	}
}

// dismiss takes notice of the end of a guard, and returns how it ended.
func (p *post) dismiss() error {
	_ = p.line.Close()
	if err := p.cmd.Wait(); err != nil {
		return err
	}
	return errors.New("it ended")
}

func (p *post) say(orders guard.Orders) error {
	message, err := guard.Encode(orders)
	if err != nil {
		return err
	}
	if err := p.line.SetWriteDeadline(time.Now().Add(sayFor)); err != nil {
		return err
	}
	_, err = p.line.Write(message)
	return err
}

func (p *post) hear() (note guard.Note, err error) {
	buffer := make([]byte, guard.MaxMessage)
	n, err := p.line.Read(buffer)
	if err != nil {
		return note, err
	}
	return note, json.Unmarshal(buffer[:n], &note)
}
