// Command baseline is the program that the benchmarks compare Sheaf with: a typical hand-written exporter
// from an API to a workbook. It fetches pages with net/http, eight at once, decodes them with encoding/json,
// writes the rows in order with excelize's StreamWriter, and zips the workbook. Memory is bounded by the
// pages in flight. Nothing is durable: after a failure it has to start over.
package main

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net/http"
	"net/url"
	"os"
	"strconv"

	"github.com/xuri/excelize/v2"
)

// page is the source's response. The first row is the header.
type page struct {
	Errcode int    `json:"errcode"`
	Msg     string `json:"msg"`
	Data    struct {
		Data    []map[string]any `json:"data"`
		Pagetag struct {
			TotalPage int `json:"total_page"`
		} `json:"pagetag"`
	} `json:"data"`
}

// fetched is a page or the error of fetching it.
type fetched struct {
	page page
	err  error
}

type source struct {
	client *http.Client
	url    string
	limit  int
}

func main() {
	log.SetFlags(0)
	out := flag.String("o", "export.zip", "zip to write")
	limit := flag.Int("limit", 1000, "rows a page")
	conn := flag.Int("conn", 8, "requests in flight")
	flag.Parse()
	if flag.NArg() != 1 {
		log.Fatal("usage: baseline [-o FILE] [-limit N] [-conn N] URL")
	}
	rows, err := export(flag.Arg(0), *out, *limit, *conn)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(rows)
}

// export writes the rows of the source at address to a zip. It returns their number, without the header.
func export(address, out string, limit, conn int) (rows int, err error) {
	s := source{limit: limit, url: address,
		client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: conn}}}
	first, columns, err := s.first()
	if err != nil {
		return 0, err
	}

	// Each page has a channel, queued in page order.
	queue := make(chan chan fetched, conn-1)
	go func() {
		defer close(queue)
		for n := 2; n <= first.Data.Pagetag.TotalPage; n++ {
			result := make(chan fetched, 1)
			queue <- result
			go func() {
				var f fetched
				_, f.err = s.fetch(n, &f.page)
				result <- f
			}()
		}
	}()

	book := excelize.NewFile()
	defer book.Close()
	sheet, err := book.NewStreamWriter("Sheet1")
	if err != nil {
		return 0, err
	}
	line := 0
	values := make([]any, len(columns))
	write := func(objects []map[string]any) error {
		for _, object := range objects {
			for i, column := range columns {
				values[i] = object[column]
			}
			line++
			cell, err := excelize.CoordinatesToCellName(1, line)
			if err != nil {
				return err
			}
			if err := sheet.SetRow(cell, values); err != nil {
				return err
			}
		}
		return nil
	}
	if err := write(first.Data.Data); err != nil {
		return 0, err
	}
	for result := range queue {
		f := <-result
		if f.err != nil {
			return 0, f.err
		}
		if len(f.page.Data.Data) == 0 {
			return 0, fmt.Errorf("a page has no header")
		}
		if err := write(f.page.Data.Data[1:]); err != nil {
			return 0, err
		}
	}
	if err := sheet.Flush(); err != nil {
		return 0, err
	}
	return line - 1, save(book, out)
}

// first returns page 1 and the names of its columns in header order, which a map would lose.
func (s source) first() (first page, columns []string, err error) {
	body, err := s.fetch(1, &first)
	if err != nil {
		return first, nil, err
	}
	var raw struct {
		Data struct {
			Data []json.RawMessage `json:"data"`
		} `json:"data"`
	}
	if err := json.Unmarshal(body, &raw); err != nil {
		return first, nil, err
	}
	if len(raw.Data.Data) == 0 {
		return first, nil, fmt.Errorf("page 1 has no header")
	}
	d := json.NewDecoder(bytes.NewReader(raw.Data.Data[0]))
	if _, err := d.Token(); err != nil { // {
		return first, nil, err
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return first, nil, err
		}
		columns = append(columns, name.(string))
		if _, err := d.Token(); err != nil { // the title, a string
			return first, nil, err
		}
	}
	return first, columns, nil
}

// fetch reads page n into p and returns the body.
func (s source) fetch(n int, p *page) ([]byte, error) {
	u, err := url.Parse(s.url)
	if err != nil {
		return nil, err
	}
	query := u.Query()
	query.Set("page", strconv.Itoa(n))
	query.Set("limit", strconv.Itoa(s.limit))
	u.RawQuery = query.Encode()
	res, err := s.client.Get(u.String())
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("page %d: %s", n, res.Status)
	}
	var body bytes.Buffer
	if res.ContentLength > 0 {
		body.Grow(int(res.ContentLength) + bytes.MinRead)
	}
	if _, err := body.ReadFrom(res.Body); err != nil {
		return nil, fmt.Errorf("page %d: %w", n, err)
	}
	if err := json.Unmarshal(body.Bytes(), p); err != nil {
		return nil, fmt.Errorf("page %d: %w", n, err)
	}
	if p.Errcode != 0 {
		return nil, fmt.Errorf("page %d: errcode %d: %s", n, p.Errcode, p.Msg)
	}
	return body.Bytes(), nil
}

// save writes the workbook into a zip, uncompressed because it is compressed already.
func save(book *excelize.File, out string) error {
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	defer f.Close()
	z := zip.NewWriter(f)
	w, err := z.CreateHeader(&zip.FileHeader{Name: "export.xlsx", Method: zip.Store})
	if err != nil {
		return err
	}
	if err := book.Write(w); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	return f.Close()
}
