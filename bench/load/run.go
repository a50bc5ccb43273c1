package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const ioBytes = 1 << 20

// run is one measurement. Its clock runs from begin to the end of the last operation.
type run struct {
	budget     time.Duration
	start, end time.Time
	ops, bytes atomic.Int64
	cut        atomic.Bool
	failure    atomic.Pointer[string] // the first; ends the run
}

func (r *run) begin() { r.start = time.Now() }

func (r *run) result() result {
	out := result{
		Seconds: r.end.Sub(r.start).Seconds(), Ended: float64(r.end.UnixNano()) / 1e9,
		Ops: r.ops.Load(), Bytes: r.bytes.Load(), Cut: r.cut.Load(),
	}
	if f := r.failure.Load(); f != nil {
		out.Error = *f
	}
	return out
}

// fail keeps the first error; true if there is one.
func (r *run) fail(err error) bool {
	if err == nil {
		return false
	}
	text := err.Error()
	r.failure.CompareAndSwap(nil, &text)
	return true
}

// over says that no further operation may start.
func (r *run) over() bool {
	if r.failure.Load() != nil {
		return true
	}
	if time.Since(r.start) > r.budget {
		r.cut.Store(true)
		return true
	}
	return false
}

// threads runs work(0..n-1), each in a thread of its own, and stops the clock after the last.
func (r *run) threads(n int, work func(int)) {
	var all sync.WaitGroup
	for i := range n {
		all.Add(1)
		go func() {
			defer all.Done()
			runtime.LockOSThread()
			work(i)
		}()
	}
	all.Wait()
	r.end = time.Now()
}

// each does the numbered files in order, the next free thread the next file.
func (r *run) each(pattern string, count int64, threads int, do func(string)) {
	var next atomic.Int64
	r.begin()
	r.threads(threads, func(int) {
		for i := next.Add(1) - 1; i < count && !r.over(); i = next.Add(1) - 1 {
			do(name(pattern, i))
		}
	})
}

func (r *run) ready(dir, entry string) {
	r.begin()
	for !r.over() {
		table, err := os.ReadFile("/proc/self/mountinfo")
		if r.fail(err) || strings.Contains(string(table), " "+dir+" ") {
			break
		}
		time.Sleep(time.Millisecond)
	}
	for seen := false; !seen && !r.over(); { // a mount may be an empty directory for a moment
		entries, err := os.ReadDir(dir)
		if r.fail(err) {
			break
		}
		for _, e := range entries {
			seen = seen || e.Name() == entry
		}
	}
	r.end = time.Now()
}

func (r *run) first(file string) {
	r.begin()
	fd, err := syscall.Open(file, syscall.O_RDONLY, 0)
	if !r.fail(err) {
		var one [1]byte
		n, err := syscall.Pread(fd, one[:], 0)
		r.fail(err)
		r.bytes.Add(int64(n))
	}
	r.end = time.Now()
	r.ops.Add(1)
}

// readAll reads a file to its end and checks that each block is the one that belongs there.
func (r *run) readAll(file string, buf []byte) {
	fd, err := syscall.Open(file, syscall.O_RDONLY, 0)
	if r.fail(err) {
		return
	}
	defer syscall.Close(fd)
	for at := int64(0); !r.over(); {
		n, err := syscall.Pread(fd, buf, at)
		if r.fail(err) || n == 0 || r.fail(check(buf[:n], at)) {
			return
		}
		at += int64(n)
		r.bytes.Add(int64(n))
	}
}

func (r *run) sequential(files []string) {
	r.begin()
	r.threads(len(files), func(i int) { r.readAll(files[i], make([]byte, ioBytes)) })
}

func (r *run) readFile(file string) {
	r.readAll(file, make([]byte, 256<<10))
	r.ops.Add(1)
}

func (r *run) statFile(file string) {
	var attr syscall.Stat_t
	if !r.fail(syscall.Lstat(file, &attr)) {
		r.ops.Add(1)
	}
}

// miss asks for names that a directory has not, once it was listed.
func (r *run) miss(dir string, count int64, threads int) {
	if _, err := os.ReadDir(dir); r.fail(err) {
		return
	}
	r.each(dir+"/missing-%06d", count, threads, func(file string) {
		var attr syscall.Stat_t
		if err := syscall.Lstat(file, &attr); err == syscall.ENOENT {
			r.ops.Add(1)
		} else if err == nil {
			r.fail(errors.New(file + " exists"))
		} else {
			r.fail(err)
		}
	})
}

func (r *run) openFile(file string) {
	fd, err := syscall.Open(file, syscall.O_RDONLY, 0)
	if !r.fail(err) && !r.fail(syscall.Close(fd)) {
		r.ops.Add(1)
	}
}

// random gives each thread its own descriptor, opened before the clock starts. No block is read twice:
// the second time would measure the kernel's page cache. The order is the same in each run.
func (r *run) random(file string, block int64, threads int) {
	var attr syscall.Stat_t
	if r.fail(syscall.Stat(file, &attr)) {
		return
	}
	fds := make([]int, threads)
	for i := range fds {
		fd, err := syscall.Open(file, syscall.O_RDONLY, 0)
		if r.fail(err) {
			return
		}
		fds[i] = fd
	}
	order := newDice(0).Perm(int(attr.Size / block))
	var next atomic.Int64
	r.begin()
	r.threads(threads, func(i int) {
		buf := make([]byte, block)
		for turn := next.Add(1) - 1; turn < int64(len(order)) && !r.over(); turn = next.Add(1) - 1 {
			at := int64(order[turn]) * block
			n, err := syscall.Pread(fds[i], buf, at)
			if err == nil && int64(n) < block {
				err = fmt.Errorf("%d bytes read at %d", n, at)
			}
			if r.fail(err) || r.fail(check(buf[:n], at)) {
				return
			}
			r.ops.Add(1)
			r.bytes.Add(int64(n))
		}
	})
}

func (r *run) list(args []string) {
	exec.Command("ls", "--version").Run() // its file may have been dropped with the caches
	ls := exec.Command("ls", args...)
	var out, errs bytes.Buffer
	ls.Stdout, ls.Stderr = &out, &errs
	r.begin()
	err := ls.Run()
	r.end = time.Now()
	if err != nil {
		r.fail(errors.New(strings.TrimSpace(err.Error() + " " + errs.String())))
	}
	r.ops.Add(int64(bytes.Count(out.Bytes(), []byte("\n"))))
}

func (r *run) put(file string, size int64, buf []byte, flags int) {
	fd, err := syscall.Open(file, syscall.O_WRONLY|syscall.O_CREAT|flags, 0o644)
	if r.fail(err) {
		return
	}
	content := newContent(size)
	for {
		n, err := io.ReadFull(content, buf)
		for done := 0; done < n; {
			w, err := syscall.Write(fd, buf[done:n])
			if r.fail(err) {
				syscall.Close(fd)
				return
			}
			done += w
			r.bytes.Add(int64(w))
		}
		if err != nil {
			break
		}
	}
	r.fail(syscall.Close(fd))
}

func (r *run) write(file string, size int64) {
	buf := make([]byte, ioBytes)
	r.begin()
	r.put(file, size, buf, 0)
	r.end = time.Now()
}

func (r *run) createFile(file string, size int64, flags int) {
	r.put(file, size, make([]byte, size), flags)
	if r.failure.Load() == nil {
		r.ops.Add(1)
	}
}
