//go:build race

package assembler

const raceDetector = true
