package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The flags of a file are the columns and options of a request.
func TestFlagsOfAFile(t *testing.T) {
	t.Parallel()
	for claim, c := range map[string]struct {
		flags  fileFlags
		body   string
		output string
		known  []string
		want   string
	}{
		"a plain workbook is the request that it always was": {
			body: `{"ext_type":"XLSX","title":"t"}`, output: "x.xlsx", want: `{"ext_type":"XLSX","title":"t"}`,
		},
		"so is one in its zip, and one without suffix": {
			body: `{"ext_type":"XLSX"}`, output: "x.zip", want: `{"ext_type":"XLSX"}`,
		},
		"the zip of a request file has its formats": {
			body: `{"ext_type":"csv,html"}`, output: "x.zip", want: `{"ext_type":"csv,html"}`,
		},
		"columns": {
			flags: fileFlags{Column: []string{"id", "user.name=姓名, voll", "['a=b']=c=d", `{"key":"s","map":{"0":"新建"}}`},
				Type: []string{"id=text", "['a=b']=datetime:unix_ms", "user.name=date:%d/%m/%Y %H:%M=", "s=number"}},
			body: `{}`, output: "x.xlsx",
			want: `{"ext_type":"XLSX","columns":[{"key":"id","type":"text"},{"key":"user.name","title":"姓名, voll","type":"date","from":"%d/%m/%Y %H:%M="},
				{"key":"['a=b']","title":"c=d","type":"datetime","from":"unix_ms"},{"key":"s","map":{"0":"新建"},"type":"number"}]}`,
		},
		"columns on the command line go before those of the request": {
			flags: fileFlags{Column: []string{"a"}}, body: `{"columns":[{"key":"b"}],"ext_type":"XLSX"}`, output: "x.zip",
			want: `{"columns":[{"key":"a"}],"ext_type":"XLSX"}`,
		},
		"an empty title is a title": {
			flags: fileFlags{Column: []string{"a="}}, body: `{}`, output: "x.zip", want: `{"columns":[{"key":"a","title":""}]}`,
		},
		"types of a file keep all its columns": {
			flags: fileFlags{Type: []string{"金额 (元)=number", "b=date"}}, body: `{}`, output: "x.zip", known: []string{"a", "金额 (元)", "b"},
			want: `{"columns":[{"key":"a","title":"a"},{"key":"['金额 (元)']","title":"金额 (元)","type":"number"},{"key":"b","title":"b","type":"date"}]}`,
		},
		"options": {
			flags: fileFlags{Timezone: "Asia/Shanghai", RowsPerFile: 7, Manifest: true, KeepPages: 36 * time.Hour, Options: `{"csv":{"bom":false},"timezone":"UTC"}`},
			body:  `{"options":{"flatten":1,"csv":{"guard":false}},"ext_type":"XLSX"}`, output: "x.zip",
			want: `{"ext_type":"XLSX","options":{"flatten":1,"csv":{"bom":false},"timezone":"Asia/Shanghai","max_rows":7,"manifest":true,"keep_pages":36}}`,
		},
		"options that are off need no zip": {
			flags: fileFlags{Options: `{"max_rows":0,"manifest":false}`}, body: `{"options":{"zip":true}}`, output: "x.csv",
			want: `{"ext_type":"CSV","options":{"max_rows":0,"manifest":false,"zip":false}}`,
		},
		"a submission is no file": {
			flags: fileFlags{Options: `{"zip":false}`}, body: `{"ext_type":"CSV"}`, want: `{"ext_type":"CSV","options":{"zip":false}}`,
		},
		"null is no option": {
			flags: fileFlags{Timezone: "UTC", Options: "null"}, body: `{"options":null}`, output: "x.zip", want: `{"options":{"timezone":"UTC"}}`,
		},
		"formats are given once": {
			flags: fileFlags{Format: []string{" xlsx", "XLSX"}}, body: `{}`, output: "x.zip", want: `{"ext_type":"XLSX"}`,
		},
	} {
		got, err := c.flags.applied([]byte(c.body), c.output, c.known)
		require.NoError(t, err, claim)
		require.JSONEq(t, c.want, string(got), claim)
	}
}

func TestWrongFlagsOfAFile(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		flags  fileFlags
		output string
		known  []string
		want   string
	}{
		{fileFlags{Format: []string{"xml"}}, "x.zip", nil, `--format: "xml" is not known; known: xlsx`},
		{fileFlags{Format: []string{"xlsx", ""}}, "x.zip", nil, `--format: "" is not known`},
		{fileFlags{}, "x.ods", nil, "x.ods ends in .ods; a file ends in .xlsx"},
		{fileFlags{RowsPerFile: 5}, "x.xlsx", nil, "--rows-per-file: several files need an output that ends in .zip"},
		{fileFlags{RowsPerFile: -5}, "x.zip", nil, "--rows-per-file -5: want at least 1"},
		{fileFlags{Manifest: true}, "x", nil, "--manifest: it is a second file"},
		{fileFlags{Options: `{"max_rows": 5 }`}, "x.csv", nil, "options.max_rows: several files need an output that ends in .zip"},
		{fileFlags{Options: `{"manifest":true}`}, "x.xlsx", nil, "options.manifest: it is a second file"},
		{fileFlags{Options: `{"zip" : false }`}, "x.zip", nil, "options.zip: false makes no zip; name an output with the suffix of its format"},
		{fileFlags{KeepPages: 90 * time.Minute}, "x.zip", nil, "--keep-pages 1h30m0s: want whole hours"},
		{fileFlags{KeepPages: -time.Hour}, "x.zip", nil, "--keep-pages -1h0m0s: want whole hours"},
		{fileFlags{Options: "[1]"}, "x.zip", nil, "--options: it is not a JSON object"},
		{fileFlags{Column: []string{"=x"}}, "x.zip", nil, `--column "=x": want KEY, KEY=TITLE, or JSON`},
		{fileFlags{Column: []string{""}}, "x.zip", nil, `--column "": want KEY`},
		{fileFlags{Column: []string{"{"}}, "x.zip", nil, "--column {: it is not JSON"},
		{fileFlags{Column: []string{"amount"}, Type: []string{"amuont=number"}}, "x.zip", nil, "--type amuont=number: there is no column amuont, did you mean amount?"},
		{fileFlags{Type: []string{"b=number"}}, "x.zip", []string{"a"}, "--type b=number: there is no column b"},
		{fileFlags{Type: []string{"b=number"}}, "x.zip", nil, "--type: it needs --column for each column of the file"},
		{fileFlags{Column: []string{"idd", "id"}}, "x.zip", []string{"id"}, "--column idd: there is no column idd, did you mean id?"},
		{fileFlags{Column: []string{"a"}, Type: []string{"a"}}, "x.zip", nil, `--type "a": want KEY=TYPE`},
		{fileFlags{Type: []string{"a"}}, "x.zip", nil, `--type "a": want KEY=TYPE`},
		{fileFlags{Column: []string{"a"}, Type: []string{"=a"}}, "x.zip", nil, `--type "=a": want KEY=TYPE`},
	} {
		_, err := c.flags.applied([]byte(`{"options":{}}`), c.output, c.known)
		require.ErrorContains(t, err, c.want)
		require.True(t, isUsage(err))
	}
}
