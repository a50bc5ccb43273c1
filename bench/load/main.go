// load is what the bench runs against a mounted directory: it opens, reads, lists
// and writes as programs do, with real threads, and says how long that took.
//
//	load fill URL|DIR PATTERN:COUNT:SIZE ...   put the data in place
//	load ready DIR NAME                   wait until DIR is a mount and lists NAME
//	load first FILE                       open and read one byte
//	load seq FILE ...                     read each in its own thread, 1 MiB at a time
//	load random FILE BLOCK THREADS        pread each block once, in random order
//	load read|stat PATTERN COUNT THREADS  whole files | their attributes
//	load miss DIR COUNT THREADS           list it, then attributes of names that it has not
//	load open FILE COUNT THREADS          open and close the same file
//	load ls [-l] DIR                      the real ls
//	load write FILE SIZE                  create, write 1 MiB at a time, close
//	load create PATTERN COUNT SIZE THREADS  create, write, close
//	load exclusive PATTERN COUNT SIZE THREADS  the same with O_EXCL
//	load rename OLD NEW COUNT             COUNT files are moved by that
//	load append FILE                      one byte, close
//	load edit FILE OFFSET SIZE            bytes 0xff, fsync, close
//	load command COUNT PROGRAM ...        which makes COUNT files
//
// PATTERN has one %d. It prints one line of JSON, see result. Go and not Python,
// because at 16 threads an interpreter would be what is measured; run it on a
// tmpfs (`--systems tmpfs`) to see what it costs itself.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"strconv"
	"syscall"
	"time"
)

// result is what one run did. Cut: the time was over before the work was. Ended: seconds since the epoch.
type result struct {
	Seconds float64 `json:"seconds"`
	Ended   float64 `json:"ended"`
	Ops     int64   `json:"ops"`
	Bytes   int64   `json:"bytes"`
	Cut     bool    `json:"cut"`
	Error   string  `json:"error,omitempty"`
}

func number(text string) int64 {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		log.Fatal(err)
	}
	return n
}

func main() {
	budget := flag.Duration("for", time.Hour, "start no operation after this time")
	flag.Parse()
	args := flag.Args()
	if len(args) < 2 {
		log.Fatal("usage: load [-for DURATION] fill|ready|first|seq|random|read|stat|miss|open|ls|write|create|exclusive|rename|append|edit|command ...")
	}
	r := &run{budget: *budget}
	switch mode, args := args[0], args[1:]; mode {
	case "fill":
		r.fill(args[0], args[1:])
	case "ready":
		r.ready(args[0], args[1])
	case "first":
		r.first(args[0])
	case "seq":
		r.sequential(args)
	case "random":
		r.random(args[0], number(args[1]), int(number(args[2])))
	case "read":
		r.each(args[0], number(args[1]), int(number(args[2])), r.readFile)
	case "stat":
		r.each(args[0], number(args[1]), int(number(args[2])), r.statFile)
	case "miss":
		r.miss(args[0], number(args[1]), int(number(args[2])))
	case "open":
		file := args[0]
		r.each("%d", number(args[1]), int(number(args[2])), func(string) { r.openFile(file) })
	case "ls":
		r.list(args)
	case "write":
		r.write(args[0], number(args[1]))
	case "create", "exclusive":
		size, flags := number(args[2]), 0
		if mode == "exclusive" {
			flags = syscall.O_EXCL
		}
		r.each(args[0], number(args[1]), int(number(args[3])), func(name string) { r.createFile(name, size, flags) })
	case "rename":
		r.rename(args[0], args[1], number(args[2]))
	case "append":
		r.change(args[0], syscall.O_APPEND, func(fd int) error { return writeAll(fd, []byte{0xff}) })
	case "edit":
		r.edit(args[0], number(args[1]), number(args[2]))
	case "command":
		r.command(number(args[0]), args[1:])
	default:
		log.Fatalf("no such load: %s", mode)
	}
	if err := json.NewEncoder(os.Stdout).Encode(r.result()); err != nil {
		log.Fatal(err)
	}
}

func name(pattern string, i int64) string { return fmt.Sprintf(pattern, i) }
