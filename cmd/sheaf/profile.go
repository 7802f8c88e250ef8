package main

import (
	"errors"
	"os"
	"runtime/pprof"
)

// profileFlag writes a profile of the processor time of the whole command, in the format of go tool pprof. It
// is for developers of Sheaf and hidden in --help.
type profileFlag struct {
	CPUProfile string `name:"cpuprofile" hidden:"" type:"path"`
}

// begin starts the profile, if requested. end writes it.
func (p profileFlag) begin() (end func() error, err error) {
	if p.CPUProfile == "" {
		return func() error { return nil }, nil
	}
	f, err := os.Create(p.CPUProfile)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() error {
		pprof.StopCPUProfile()
		return f.Close()
	}, nil
}
