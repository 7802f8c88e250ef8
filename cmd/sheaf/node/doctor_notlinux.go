//go:build !linux

package node

func networkOrMemory(string) string { return "" }

func maxMemory() (bytes int64, known bool) { return 0, false }
