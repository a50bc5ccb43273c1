package main

import (
	"log"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	chunkBytes = 128 << 10
	// what a sender may be ahead of its rate; sleeps below a millisecond are not worth their cost
	burst    = 3 * time.Millisecond
	minSleep = time.Millisecond
	// what the second direction may last once the first has ended
	linger = 5 * time.Second
)

// pace is a token bucket, shared by those who must keep one rate together.
type pace struct {
	mu   sync.Mutex
	rate float64 // bytes/s; 0: no limit
	next time.Time
}

func newPace(rate float64) *pace { return &pace{rate: rate} }

// take reserves n bytes and returns how long to wait before sending them.
func (p *pace) take(n int) time.Duration {
	if p.rate <= 0 {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if floor := now.Add(-burst); p.next.Before(floor) {
		p.next = floor
	}
	p.next = p.next.Add(time.Duration(float64(n) / p.rate * 1e9))
	return p.next.Sub(now)
}

// wait keeps n bytes to both rates.
func wait(own, all *pace, n int) {
	if d := max(own.take(n), all.take(n)); d > minSleep {
		time.Sleep(d)
	}
}

type proxy struct {
	upstream         string
	latency, connect time.Duration
	connRate         float64
	counts           *counters
	up, down         *pace // of all connections
}

// conn is one client's connection and ours to the server.
type conn struct {
	*proxy
	client, server *net.TCPConn
	// true from the first byte of a request to the first byte of its response
	asking      atomic.Bool
	lastRequest atomic.Int64 // ns since the epoch, when its last byte was sent on
}

func (p *proxy) serve(client net.Conn) {
	defer client.Close()
	p.counts.connected()
	defer p.counts.disconnected()
	time.Sleep(p.connect)
	server, err := net.Dial("tcp", p.upstream)
	if err != nil {
		log.Print(err)
		return
	}
	defer server.Close()
	c := &conn{proxy: p, client: client.(*net.TCPConn), server: server.(*net.TCPConn)}
	done := make(chan struct{}, 2)
	go func() { c.requests(); done <- struct{}{} }()
	go func() { c.responses(); done <- struct{}{} }()
	<-done
	select {
	case <-done:
	case <-time.After(linger):
	}
	if c.asking.Swap(false) {
		p.counts.answered() // it never will be
	}
}

func (c *conn) requests() {
	defer c.server.CloseWrite()
	own := newPace(c.connRate)
	buf := make([]byte, chunkBytes)
	for {
		n, err := c.client.Read(buf)
		if n > 0 {
			if !c.asking.Swap(true) {
				c.counts.asked(kind(buf[:n]))
			}
			wait(own, c.up, n)
			c.counts.up.Add(int64(n))
			c.lastRequest.Store(time.Now().UnixNano())
			if _, err := c.server.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (c *conn) responses() {
	defer c.client.CloseWrite()
	own := newPace(c.connRate)
	buf := make([]byte, chunkBytes)
	for {
		n, err := c.server.Read(buf)
		if n > 0 {
			if c.asking.Swap(false) {
				c.counts.answered()
				time.Sleep(time.Until(time.Unix(0, c.lastRequest.Load()).Add(c.latency)))
			}
			wait(own, c.down, n)
			c.counts.down.Add(int64(n))
			if _, err := c.client.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
