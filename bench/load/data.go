package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Every file's content is the same function of the offset: blocks of noise that begin with
// their own number, so that a reader can tell a wrong byte's worth of range at no cost.
const blockBytes = 4096

var noise = func() []byte {
	out := make([]byte, blockBytes)
	dice := newDice(0)
	for i := 0; i < len(out); i += 8 {
		binary.LittleEndian.PutUint64(out[i:], dice.Uint64())
	}
	return out
}()

func newDice(seed int) *rand.Rand { return rand.New(rand.NewPCG(uint64(seed), 1)) }

// content reads the first size bytes of what every file holds.
type content struct {
	at, size int64
	block    [blockBytes]byte
}

func newContent(size int64) *content {
	c := &content{size: size}
	copy(c.block[:], noise)
	return c
}

func (c *content) Read(p []byte) (int, error) {
	done := 0
	for done < len(p) && c.at < c.size {
		in := c.at % blockBytes
		binary.LittleEndian.PutUint64(c.block[:], uint64(c.at/blockBytes))
		n := copy(p[done:], c.block[in:min(blockBytes, in+c.size-c.at)])
		done += n
		c.at += int64(n)
	}
	if done == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	return done, nil
}

// check looks at the number of each block in data, which was read at offset at.
func check(data []byte, at int64) error {
	if len(data) == 0 {
		return fmt.Errorf("nothing read at %d", at)
	}
	for i := (blockBytes - at%blockBytes) % blockBytes; i+8 <= int64(len(data)); i += blockBytes {
		got, want := binary.LittleEndian.Uint64(data[i:]), uint64((at+i)/blockBytes)
		if got != want {
			return fmt.Errorf("wrong data at %d: block %d", at+i, got)
		}
	}
	return nil
}

// fill puts PATTERN:COUNT:SIZE below a bucket's URL, which takes anonymous PUTs, or below a directory.
func (r *run) fill(base string, sets []string) {
	put := putFile
	if strings.HasPrefix(base, "http://") {
		transport := &http.Transport{MaxIdleConnsPerHost: fillers}
		client := &http.Client{Transport: transport, Timeout: 5 * time.Minute}
		put = func(path string, size int64) error { return putObject(client, path, size) }
	}
	for _, set := range sets {
		parts := strings.Split(set, ":")
		if len(parts) != 3 {
			log.Fatalf("%s is not PATTERN:COUNT:SIZE", set)
		}
		size := number(parts[2])
		r.each(base+"/"+parts[0], number(parts[1]), fillers, func(path string) {
			if !r.fail(put(path, size)) {
				r.ops.Add(1)
				r.bytes.Add(size)
			}
		})
	}
}

const fillers = 16

func putObject(client *http.Client, url string, size int64) error {
	request, err := http.NewRequest(http.MethodPut, url, io.NopCloser(newContent(size)))
	if err != nil {
		return err
	}
	request.ContentLength = size
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("PUT %s: %s %s", url, answer.Status, text)
	}
	return err
}

func putFile(path string, size int64) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	if _, err := io.Copy(file, newContent(size)); err != nil {
		file.Close()
		return err
	}
	return file.Close()
}
