// The control port: lines in, answers out, one change after the other.

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync"
)

// The control port takes one JSON object a line and answers each with a line, {"ok":true} or {"error":".."}, when it
// is so:
//
//   - {"type": url, "name": n, "value": base64 of the encoded resource, or null to delete it, "version": v}: the
//     version may be left out; it is the snapshot cache's version of the type. The linear caches count their own.
//   - {"load": path}: a file of such lines, as one change. None of it holds when a line is wrong.
//   - {"heap": true}: the answer has the bytes in use after a collection: {"ok":true,"heap":1234}.
type controlPort struct {
	store store
	mutex sync.Mutex
}

type answer struct {
	OK    bool   `json:"ok,omitempty"`
	Heap  uint64 `json:"heap,omitempty"`
	Error string `json:"error,omitempty"`
}

func (p *controlPort) serve(listener net.Listener) error {
	for {
		connection, err := listener.Accept()
		if err != nil {
			return fmt.Errorf("accept for resources: %w", err)
		}
		go p.talk(connection)
	}
}

// talk ends with the connection; whoever is gone is told nothing.
func (p *controlPort) talk(connection net.Conn) {
	defer connection.Close()
	answers := json.NewEncoder(connection)
	scanner := lines(connection)
	for scanner.Scan() {
		said, err := p.answer(scanner.Bytes())
		if err != nil {
			said = answer{Error: err.Error()}
		}
		if answers.Encode(said) != nil {
			return
		}
	}
	if err := scanner.Err(); err != nil {
		_ = answers.Encode(answer{Error: fmt.Sprintf("read a line: %v", err)})
	}
}

func (p *controlPort) answer(text []byte) (answer, error) {
	parsed, err := parseLine(text)
	if err != nil {
		return answer{}, err
	}
	isResource := parsed.Type != "" || parsed.Name != "" || parsed.Value != nil || parsed.Version != ""
	whole := change{}
	switch {
	case parsed.Heap && (isResource || parsed.Load != ""), parsed.Load != "" && isResource:
		return answer{}, errors.New("a line is a resource, load or heap, and one of them")
	case parsed.Heap:
		return answer{OK: true, Heap: heap()}, nil
	case parsed.Load != "":
		err = whole.load(parsed.Load)
	default:
		err = whole.add(parsed)
	}
	if err != nil {
		return answer{}, err
	}
	p.mutex.Lock()
	defer p.mutex.Unlock()
	return answer{OK: true}, p.store.apply(whole)
}

// heap is the bytes of what is reachable.
func heap() uint64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}
