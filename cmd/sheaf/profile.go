package main

import (
	"errors"
	"os"
	"runtime/pprof"
)

// profileFlag asks for a profile of the processor time of the whole command,
// in the format that go tool pprof reads. It is for those who work on Sheaf
// and not shown in --help.
type profileFlag struct {
	CPUProfile string `name:"cpuprofile" hidden:"" type:"path"`
}

// begin begins the profile, if one is wanted. end writes it.
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
