// Lines of JSON become changes: parsed, decoded and checked whole before any cache sees them.

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
)

// maxLineBytes is the longest line: a resource of 48 MB.
const maxLineBytes = 64 << 20

// A line is what the control port takes and what the files that it loads hold.
type line struct {
	Type    string `json:"type"`
	Name    string `json:"name"`
	Value   []byte `json:"value"`
	Version string `json:"version"`
	Load    string `json:"load"`
	Heap    bool   `json:"heap"`
}

func parseLine(text []byte) (line, error) {
	var parsed line
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&parsed); err != nil {
		return line{}, fmt.Errorf("the line is no such object: %w", err)
	}
	if decoder.More() {
		return line{}, errors.New("the line has more than one object")
	}
	return parsed, nil
}

// lines is a scanner that gives up at maxLineBytes.
func lines(reader io.Reader) *bufio.Scanner {
	scanner := bufio.NewScanner(reader)
	scanner.Buffer(make([]byte, 0, 64<<10), maxLineBytes)
	return scanner
}

// A change is what becomes visible at once, by type URL. Of two lines for one name the later counts.
type change map[string]*typeChange

type typeChange struct {
	// version is the last one given, empty for none.
	version  string
	puts     map[string]types.Resource
	removals map[string]struct{}
}

// load reads a file of lines with resources.
func (c change) load(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("load: %w", err)
	}
	defer file.Close()
	scanner := lines(file)
	for number := 1; scanner.Scan(); number++ {
		parsed, err := parseLine(scanner.Bytes())
		if err == nil && (parsed.Load != "" || parsed.Heap) {
			err = errors.New("a file holds resources only")
		}
		if err == nil {
			err = c.add(parsed)
		}
		if err != nil {
			return fmt.Errorf("load: %s, line %d: %w", path, number, err)
		}
	}
	if err := scanner.Err(); err != nil {
		return fmt.Errorf("load: read %s: %w", path, err)
	}
	return nil
}

func (c change) add(parsed line) error {
	if parsed.Name == "" {
		return errors.New("name: is missing")
	}
	if cache.GetResponseType(parsed.Type) == types.UnknownType {
		return fmt.Errorf("type: %q is not served", parsed.Type)
	}
	part := c[parsed.Type]
	if part == nil {
		part = &typeChange{puts: map[string]types.Resource{}, removals: map[string]struct{}{}}
		c[parsed.Type] = part
	}
	if parsed.Version != "" {
		part.version = parsed.Version
	}
	if parsed.Value == nil {
		delete(part.puts, parsed.Name)
		part.removals[parsed.Name] = struct{}{}
		return nil
	}
	value, err := decode(parsed)
	if err != nil {
		return err
	}
	delete(part.removals, parsed.Name)
	part.puts[parsed.Name] = value
	return nil
}

// decode makes the message of a resource; the caches hold messages, not bytes.
func decode(parsed line) (types.Resource, error) {
	kind, err := protoregistry.GlobalTypes.FindMessageByURL(parsed.Type)
	if err != nil {
		return nil, fmt.Errorf("type: %w", err)
	}
	value := kind.New().Interface()
	if err := proto.Unmarshal(parsed.Value, value); err != nil {
		return nil, fmt.Errorf("value: %w", err)
	}
	// The snapshot cache goes by the name in the resource, the linear one by the name that it is told.
	if inside := cache.GetResourceName(value); inside != parsed.Name {
		return nil, fmt.Errorf("name: it is %q, and in the resource %q", parsed.Name, inside)
	}
	return value, nil
}
