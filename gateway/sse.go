package gateway

import (
	"bytes"
	"net/http"
	"strings"
	"time"
)

const (
	// eventsRetry is how long a client waits before it comes back, in milliseconds, as text.
	eventsRetry = "2000"
	// eventsAlive is how often something is written when there is nothing to tell: proxies cut what is silent.
	eventsAlive = 15 * time.Second
	// eventsPatience is how long a client may take to read what was written.
	eventsPatience = 30 * time.Second
)

// events writes server-sent events. The first error is the last: the client is gone, or too slow.
type events struct {
	control *http.ResponseController
	w       http.ResponseWriter
}

// beginEvents begins a stream. From here on nothing but events can be answered.
func beginEvents(w http.ResponseWriter) (*events, error) {
	header := w.Header()
	header.Set("Content-Type", "text/event-stream")
	header.Set("Cache-Control", "no-store")
	header.Set("X-Accel-Buffering", "no") // or nginx keeps events back until it has some kilobytes
	w.WriteHeader(http.StatusOK)
	e := &events{control: http.NewResponseController(w), w: w}
	return e, e.write([]byte("retry: " + eventsRetry + "\n\n"))
}

// end makes the connection usable for the next request.
func (e *events) end() { _ = e.control.SetWriteDeadline(time.Time{}) }

// event writes an event. Its data is one line; an id is where to go on after it, none keeps the one before.
func (e *events) event(kind, id string, data []byte) error {
	var b bytes.Buffer
	if id != "" {
		b.WriteString("id: " + id + "\n")
	}
	b.WriteString("event: " + kind + "\ndata: ")
	b.Write(bytes.ReplaceAll(data, []byte("\n"), []byte(" "))) // JSON has newlines only between values
	b.WriteString("\n\n")
	return e.write(b.Bytes())
}

// place moves on where the client comes back to, without an event.
func (e *events) place(id string) error { return e.write([]byte("id: " + id + "\n\n")) }

// alive says that the stream is.
func (e *events) alive() error { return e.write([]byte(":\n\n")) }

func (e *events) write(text []byte) error {
	// A recorder in a test has neither a deadline nor a buffer.
	_ = e.control.SetWriteDeadline(time.Now().Add(eventsPatience))
	if _, err := e.w.Write(text); err != nil {
		return err
	}
	_ = e.control.Flush()
	return nil
}

// lastEvent is the id of the last event that the client has seen. A browser sends a header when it comes back by itself; who makes a new
// connection can only write it into the URL. What can be no id of ours stands for one that nobody remembers.
func lastEvent(r *http.Request, query string) string {
	id := r.Header.Get("Last-Event-ID")
	if id == "" {
		id = query
	}
	if len(id) > 255 || !printable(id) || strings.TrimSpace(id) != id {
		return "unknown"
	}
	return id
}
