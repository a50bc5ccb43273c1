package main

import (
	"bytes"
	"errors"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

func (r *run) rename(old, new string, files int64) {
	r.begin()
	if !r.fail(syscall.Rename(old, new)) {
		r.ops.Add(files)
	}
	r.end = time.Now()
}

// change opens an existing file for writing, lets do work on it, and closes it.
func (r *run) change(file string, flags int, do func(fd int) error) {
	r.begin()
	fd, err := syscall.Open(file, syscall.O_WRONLY|flags, 0)
	if !r.fail(err) {
		r.fail(do(fd))
		r.fail(syscall.Close(fd))
		r.ops.Add(1)
	}
	r.end = time.Now()
}

func (r *run) edit(file string, at, size int64) {
	r.change(file, 0, func(fd int) error {
		if _, err := syscall.Seek(fd, at, 0); err != nil {
			return err
		}
		if err := writeAll(fd, bytes.Repeat([]byte{0xff}, int(size))); err != nil {
			return err
		}
		return syscall.Fsync(fd)
	})
}

func writeAll(fd int, data []byte) error {
	for len(data) > 0 {
		n, err := syscall.Write(fd, data)
		if err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

// command runs a program to its end.
func (r *run) command(files int64, words []string) {
	exec.Command(words[0], "--version").Run() // its file may have been dropped with the caches
	program := exec.Command(words[0], words[1:]...)
	var errs bytes.Buffer
	program.Stderr = &errs
	r.begin()
	err := program.Run()
	r.end = time.Now()
	if err != nil {
		r.fail(errors.New(strings.TrimSpace(err.Error() + " " + errs.String())))
	}
	r.ops.Add(files)
}
