//go:build linux

package main

import (
	"fmt"
	"os"
	"strings"
)

const (
	sectionBegin = "<!-- begin: task bench -- -results -->\n"
	sectionEnd   = "<!-- end: task bench -->\n"
)

// replaceSection replaces the text between the two markers of a file.
func replaceSection(file, text string) error {
	old, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	changed, err := withSection(string(old), text)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return os.WriteFile(file, []byte(changed), 0o644)
}

func withSection(old, text string) (string, error) {
	before, rest, ok := strings.Cut(old, sectionBegin)
	_, after, ok2 := strings.Cut(rest, sectionEnd)
	if !ok || !ok2 || strings.Contains(after, sectionBegin) {
		return "", fmt.Errorf("want the markers %q and %q, once each and in this order",
			sectionBegin, sectionEnd)
	}
	return before + sectionBegin + text + sectionEnd + after, nil
}
