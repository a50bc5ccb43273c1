package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
)

// continued is the body of a request whose head has been counted: it follows a "100 Continue".
const continued = "BODY"

// counters is what has passed the proxy since the last reset.
type counters struct {
	mu                 sync.Mutex
	requests           map[string]int64
	conns              int64
	open               int64 // now; never reset
	inflight, mostEver int64 // requests whose response has not begun
	up, down           atomic.Int64
}

func newCounters() *counters { return &counters{requests: map[string]int64{}} }

func (c *counters) connected() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conns++
	c.open++
}

func (c *counters) disconnected() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open--
}

func (c *counters) asked(kind string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if kind != continued {
		c.requests[kind]++
	}
	c.inflight++
	c.mostEver = max(c.mostEver, c.inflight)
}

func (c *counters) answered() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.inflight--
}

// ServeHTTP answers the counters; with ?reset=1 they are reset after the answer.
func (c *counters) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	answer := map[string]any{
		"requests": c.requests, "conns": c.conns, "open": c.open, "max_inflight": c.mostEver,
		"up": c.up.Load(), "down": c.down.Load(),
	}
	if r.URL.Query().Get("reset") != "" {
		c.requests = map[string]int64{} // the old one is the answer's alone now
		c.conns, c.mostEver = 0, c.inflight
		c.up.Store(0)
		c.down.Store(0)
	}
	data, err := json.Marshal(answer)
	c.mu.Unlock()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Write(data)
}

// kind names the S3 operation of a request by its first bytes: request line and, for copies, headers.
func kind(head []byte) string {
	line, headers, _ := bytes.Cut(head, []byte("\r\n"))
	words := bytes.Split(line, []byte(" "))
	if len(words) != 3 || !bytes.HasPrefix(words[2], []byte("HTTP/")) {
		return continued
	}
	method := string(words[0])
	_, raw, _ := bytes.Cut(words[1], []byte("?"))
	query, _ := url.ParseQuery(string(raw)) // what can be parsed of it will do
	copying := bytes.Contains(bytes.ToLower(headers), []byte("x-amz-copy-source:"))
	has := query.Has
	switch {
	case method == "GET" && has("uploads"):
		return "LIST-UPLOADS"
	case method == "GET" && has("uploadId"):
		return "LIST-PARTS"
	case method == "GET" && has("location"):
		return "GET-LOCATION"
	case method == "GET" && (has("list-type") || has("prefix") || has("delimiter") || has("max-keys")):
		return "LIST"
	case method == "PUT" && has("uploadId") && copying:
		return "COPY-PART"
	case method == "PUT" && has("uploadId"):
		return "PUT-PART"
	case method == "PUT" && copying:
		return "COPY"
	case method == "POST" && has("uploads"):
		return "CREATE-UPLOAD"
	case method == "POST" && has("uploadId"):
		return "COMPLETE-UPLOAD"
	case method == "POST" && has("delete"):
		return "DELETE-MANY"
	case method == "DELETE" && has("uploadId"):
		return "ABORT-UPLOAD"
	}
	return method
}
