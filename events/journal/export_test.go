package journal

import "time"

// MeasuredEach lets the log begin as if each of several separate messages took this long.
func (s *Log) MeasuredEach(took time.Duration) { s.commits.each = took }
