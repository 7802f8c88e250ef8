package main

import (
	"archive/zip"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/xuri/excelize/v2"

	"sheaf/services/assembler"
	"sheaf/services/crawler/source/sourcetest"
)

func csvRows(t testing.TB, text string) [][]string {
	t.Helper()
	rows, err := csv.NewReader(strings.NewReader(strings.TrimPrefix(text, "\ufeff"))).ReadAll()
	require.NoError(t, err)
	return rows
}

func readFile(t testing.TB, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	require.NoError(t, err)
	return string(data)
}

// The suffix of an output chooses its format, and the columns are those of the flags.
func TestExportToEachFormat(t *testing.T) {
	t.Parallel()
	input := filepath.Join(t.TempDir(), "orders.json")
	require.NoError(t, os.WriteFile(input, []byte(`[{"id":1,"user":{"name":"李雷"},"at":1767225600},{"id":2,"user":{"name":"x,y"},"at":null}]`), 0o600))
	for _, format := range assembler.Formats() {
		t.Run(format.Name, func(t *testing.T) {
			t.Parallel()
			output := filepath.Join(t.TempDir(), "orders"+strings.ToUpper(format.Ext))
			code, out, errs := sheaf(t, t.Context(), "", "export", input, "-o", output,
				"--column", "user.name=姓名", "--column", "id", "--column", "at", "--type", "at=datetime:unix", "--timezone", "Asia/Shanghai")
			require.Zero(t, code, errs)
			require.Contains(t, errs, "2 rows")
			require.Contains(t, out, output)
			text := readFile(t, output)
			switch format.Ext {
			case ".xlsx":
				require.Equal(t, [][]string{{"姓名", "id", "at"}, {"李雷", "1", "2026-01-01 08:00:00"}, {"x,y", "2"}}, workbookRows(t, []byte(text)))
			case ".csv":
				require.Equal(t, [][]string{{"姓名", "id", "at"}, {"李雷", "1", "2026-01-01 08:00:00"}, {"x,y", "2", ""}}, csvRows(t, text))
			case ".ndjson":
				require.Equal(t, `{"user.name":"李雷","id":1,"at":"2026-01-01T08:00:00+08:00"}`+"\n"+`{"user.name":"x,y","id":2,"at":null}`+"\n", text)
			case ".json":
				require.JSONEq(t, `[{"user.name":"李雷","id":1,"at":"2026-01-01T08:00:00+08:00"},{"user.name":"x,y","id":2,"at":null}]`, text)
			case ".parquet":
				require.True(t, strings.HasPrefix(text, "PAR1") && strings.HasSuffix(text, "PAR1"))
			default:
				require.Contains(t, text, "李雷")
			}
		})
	}
}

// needsCSV skips a test if CSV is not in the binary.
func needsCSV(t testing.TB) {
	if !slices.Contains(suffixes(), ".csv") {
		t.Skip("CSV is not in this binary")
	}
}

// A zip holds all formats, parts and the manifest. Sheets of an API and of a file are one workbook.
func TestExportOfSeveralFiles(t *testing.T) {
	t.Parallel()
	needsCSV(t)
	folder := t.TempDir()
	file := filepath.Join(folder, "客户.csv")
	require.NoError(t, os.WriteFile(file, []byte("金额 (元),b\n1.50,x\n2,y\n3,z\n"), 0o600))
	var api sourcetest.API
	for _, a := range sourcetest.APIs() {
		if a.Name == "Laravel" {
			api = a
		}
	}
	source := api.Serve(t, 60)

	output := filepath.Join(folder, "all.zip")
	code, out, errs := sheaf(t, t.Context(), "", "export", file, "-o", output, "--format", "csv,xlsx", "--rows-per-file", "2", "--manifest",
		"--type", "金额 (元)=text", "--options", `{"csv":{"bom":false,"delimiter":";"}}`, "--json")
	require.Zero(t, code, errs)
	require.True(t, json.Valid([]byte(out)), out)
	z, err := zip.OpenReader(output)
	require.NoError(t, err)
	defer z.Close()
	var names []string
	for _, f := range z.File {
		names = append(names, f.Name)
	}
	require.ElementsMatch(t, []string{"all-001.csv", "all-002.csv", "all-001.xlsx", "all-002.xlsx", "manifest.json"}, names)
	part, err := z.Open("all-001.csv")
	require.NoError(t, err)
	defer part.Close()
	first, err := csv.NewReader(part).ReadAll()
	require.NoError(t, err)
	require.Equal(t, [][]string{{"金额 (元);b"}, {"1.50;x"}, {"2;y"}}, first)

	output = filepath.Join(folder, "shop.xlsx")
	code, _, errs = sheaf(t, t.Context(), "", "export", "-o", output, "--sheet", "订单="+source.URL+"/orders", "--sheet", "客户="+file)
	require.Zero(t, code, errs)
	require.Contains(t, errs, "found: ")
	require.Contains(t, errs, "63 rows")
	book, err := excelize.OpenFile(output)
	require.NoError(t, err)
	defer book.Close()
	require.Equal(t, []string{"订单", "客户"}, book.GetSheetList())
	for sheet, want := range map[string]int{"订单": 61, "客户": 4} {
		rows, err := book.GetRows(sheet)
		require.NoError(t, err)
		require.Len(t, rows, want, sheet)
	}

	for args, want := range map[string]string{
		"-o s.csv --sheet a=x --sheet b=y":             "--sheet: ",
		"-o s.xlsx --sheet a":                          `--sheet "a": want TITLE=URL or TITLE=FILE`,
		"-o s.xlsx --sheet =x":                         `--sheet "=x": want TITLE=URL or TITLE=FILE`,
		"-o s.xlsx --sheet a=nofile":                   `there is no file "nofile", and it is not a URL`,
		"-o s.xlsx --sheet a=http://h/ http://h/":      "--sheet: give a source, --request or --sheet",
		"-o s.xlsx --sheet a=http://h/ --column x":     "--column: with several sheets",
		"-o s.xlsx --sheet a=http://h/ --type x=text":  "--column: with several sheets",
		"http://h/ -o s.xlsx --keep-pages 1h":          "--keep-pages: it is for a server; name that with --server",
		"http://h/ -o s.csv --format csv,xlsx":         "--format csv,xlsx: ",
		"http://h/ -o s.csv --format tsv":              "--format tsv: ",
		"http://h/ -o s.xlsx --type a=date":            "--type: it needs --column",
		"http://h/ -o s.xlsx --rows-per-file 9":        "--rows-per-file: several files",
		"http://h/ -o s.xlsx --column a --type b=text": "--type b=text: there is no column b",
	} {
		code, out, errs := sheaf(t, t.Context(), "", append([]string{"export"}, strings.Fields(args)...)...)
		require.Equal(t, exitUsage, code, "%s: %s", args, errs)
		require.Contains(t, errs, want, args)
		require.Empty(t, out)
	}
	// The server of the command refuses what the flags do not know.
	for args, want := range map[string]string{
		"--column a --type a=float": `columns[0].type: "float"`,
		"--column a..b":             "columns[0].key",
		"--timezone GMT+8":          "options.timezone: ",
		"--options {\"flaten\":1}":  "options.flaten is not known",
		"--column {\"key\":1}":      "columns[0].key",
		"--column {\"kye\":\"id\"}": "columns[0].kye is not known",
	} {
		code, _, errs := sheaf(t, t.Context(), "", append([]string{"export", source.URL, "-o", filepath.Join(folder, "no.xlsx")}, strings.Fields(args)...)...)
		require.Equal(t, exitFailed, code, "%s: %s", args, errs)
		require.Contains(t, errs, "sheaf: "+want, args)
		require.NoFileExists(t, filepath.Join(folder, "no.xlsx"))
	}
}

// A finished export of a server is downloaded, and written again in other formats without its source.
func TestConvertCommand(t *testing.T) {
	t.Parallel()
	needsCSV(t)
	server := startServe(t, "--http", "127.0.0.1:0", "--nats-listen", "none", "--data", t.TempDir())
	var asked atomic.Int64
	demo := demoSource(45)
	source := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		demo.ServeHTTP(w, r)
	}))
	defer source.Close()
	folder := t.TempDir()
	at := func(name string) string { return filepath.Join(folder, name) }
	cli := func(args ...string) (out string) {
		t.Helper()
		code, out, errs := sheaf(t, t.Context(), "", append(args, "--server", server.http)...)
		require.Zero(t, code, "%v: %s", args, errs)
		return out
	}
	out := cli("submit", "--url", source.URL, "--format", "csv,xlsx", "--keep-pages", "2h", "--title", "演示", "--wait")
	require.Contains(t, out, "演示.csv, ")
	require.Contains(t, out, "45 rows")
	require.Contains(t, out, "pages until")
	key := regexp.MustCompile(`(?m)^key +(\S+)`).FindStringSubmatch(out)[1]
	asked.Store(0)

	cli("download", key, "-o", at("a.csv"))
	rows := csvRows(t, readFile(t, at("a.csv")))
	require.Len(t, rows, 46)
	cli("download", key, "-o", at("a.xlsx"))
	requireDemo(t, workbookRows(t, []byte(readFile(t, at("a.xlsx")))), 45)
	code, _, errs := sheaf(t, t.Context(), "", "download", key, "-o", at("a.parquet"), "--server", server.http)
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "the export holds no file that ends in .parquet (演示.csv, 演示.xlsx)")
	require.NoFileExists(t, at("a.parquet"))

	var printed struct {
		HashKey string `json:"hash_key"`
		Rows    int64
	}
	require.NoError(t, json.Unmarshal([]byte(cli("convert", key, "-o", at("b.tsv"), "--column", "id", "--column", "name=姓名", "--json")), &printed))
	require.EqualValues(t, 45, printed.Rows)
	require.NotEqual(t, key, printed.HashKey)
	require.True(t, strings.HasPrefix(readFile(t, at("b.tsv")), "id\t姓名\r\n1\t"), readFile(t, at("b.tsv")))
	cli("convert", key, "-o", at("b.parquet"))
	require.True(t, strings.HasPrefix(readFile(t, at("b.parquet")), "PAR1"))
	cli("convert", key, "-o", at("b.xlsx"))
	requireDemo(t, workbookRows(t, []byte(readFile(t, at("b.xlsx")))), 45)
	require.Zero(t, asked.Load(), "the source was asked")

	t.Run("a plain file is no zip", func(t *testing.T) {
		code, _, errs := sheaf(t, t.Context(), "", "download", printed.HashKey, "-o", at("b.zip"), "--server", server.http)
		require.Equal(t, exitUsage, code)
		require.Contains(t, errs, "the export is one tsv file; choose an output that ends in .tsv")
	})
	cli("convert", printed.HashKey, "-o", at("c.zip"), "--format", "csv,xlsx") // it has zip false
	z, err := zip.OpenReader(at("c.zip"))
	require.NoError(t, err)
	require.Len(t, z.File, 2)
	require.NoError(t, z.Close())
	code, _, errs = sheaf(t, t.Context(), "", "convert", strings.Repeat("0", 32), "-o", at("c.csv"), "--server", server.http)
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "errcode 404")
	for args, want := range map[string]string{
		"convert x -o c.csv":                                 "32 hexadecimal",
		fmt.Sprintf("convert %s -o c.ods", key):              "c.ods ends in .ods; a file ends in .xlsx, .csv",
		fmt.Sprintf("convert %s -o c.csv --type a=b", key):   "--type: it needs --column",
		fmt.Sprintf("convert %s -o c.csv --manifest", key):   "--manifest: it is a second file",
		fmt.Sprintf("convert %s -o /no/such/dir/c.csv", key): "no folder",
	} {
		code, _, errs := sheaf(t, t.Context(), "", append(strings.Fields(args), "--server", server.http)...)
		require.Equal(t, exitUsage, code, args)
		require.Contains(t, errs, want)
	}
	server.drain(t)
}
