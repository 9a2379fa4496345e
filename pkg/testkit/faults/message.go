package faults

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
)

// Messages of the protocol, version 3, from https://www.postgresql.org/docs/current/protocol-message-formats.html.
const (
	// From the client.
	msgBind      = 'B'
	msgExecute   = 'E'
	msgFlush     = 'H'
	msgParse     = 'P'
	msgQuery     = 'Q'
	msgSync      = 'S'
	msgTerminate = 'X'
	msgDescribe  = 'D'
	msgClose     = 'C'

	// From the server.
	msgCommandComplete = 'C'
	msgEmptyQuery      = 'I'
	msgError           = 'E'
	msgSuspended       = 's'
	msgReady           = 'Z'
)

// What a client may say instead of its version.
const (
	cancelRequest = 80877102
	sslRequest    = 80877103
	gssRequest    = 80877104
)

const maxMessage = 1 << 30 // bytes; what is longer is not a message but a mistake

// idle is the state in ReadyForQuery in which no transaction is open.
const idle = 'I'

// message is one message as it was read.
type message struct {
	kind byte // 0 for the first one of a client, which has none
	raw  []byte
}

func (m message) body() []byte {
	if m.kind == 0 {
		return m.raw[4:]
	}
	return m.raw[5:]
}

// readMessage reads one that begins with its kind.
func readMessage(r io.Reader) (message, error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return message{}, err
	}
	return readBody(r, head[0], head[:])
}

// readFirst reads one that begins with its length, as a client's first message does.
func readFirst(r io.Reader) (message, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return message{}, err
	}
	return readBody(r, 0, head[:])
}

func readBody(r io.Reader, kind byte, head []byte) (message, error) {
	length := int64(binary.BigEndian.Uint32(head[len(head)-4:])) // counts itself
	if length < 4 || length > maxMessage {
		return message{}, fmt.Errorf("a message of %d bytes", length)
	}
	raw := make([]byte, len(head)+int(length)-4)
	copy(raw, head)
	if _, err := io.ReadFull(r, raw[len(head):]); err != nil {
		return message{}, err
	}
	return message{kind, raw}, nil
}

// sql is the text of a Query or a Parse.
func (m message) sql() (text string, found bool) {
	body := m.body()
	if m.kind == msgParse {
		_, body, found = bytes.Cut(body, []byte{0}) // the name of the statement
		if !found {
			return "", false
		}
	} else if m.kind != msgQuery {
		return "", false
	}
	before, _, found := bytes.Cut(body, []byte{0})
	return string(before), found
}

// flushed asks the server for what it has answered so far.
func flushed() []byte { return []byte{msgFlush, 0, 0, 0, 4} }
