package console

import (
	"embed"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

//go:embed words_en.txt words_zh.txt
var wordFiles embed.FS

// languages are the languages of the pages; the first is the default.
var languages = []string{"en", "zh"}

var words = map[string]map[string]string{"en": readWords("en"), "zh": readWords("zh")}

// readWords reads a file of lines "key = text".
func readWords(lang string) map[string]string {
	data, _ := wordFiles.ReadFile("words_" + lang + ".txt") // embedded
	all := map[string]string{}
	for line := range strings.Lines(string(data)) {
		if key, text, ok := strings.Cut(strings.TrimSpace(line), " = "); ok {
			all[key] = text
		}
	}
	return all
}

// word returns a text. pairs are names of placeholders and their values.
func word(lang, key string, pairs ...any) string {
	text, ok := words[lang][key]
	if !ok {
		return key
	}
	for i := 0; i+1 < len(pairs); i += 2 {
		text = strings.ReplaceAll(text, fmt.Sprint("{", pairs[i], "}"), fmt.Sprint(pairs[i+1]))
	}
	return text
}

// wordOr returns a text, or another if there is none, as for an error code of a newer version.
func wordOr(lang, key, other string) string {
	if text, ok := words[lang][key]; ok {
		return text
	}
	return other
}

func (v *visit) t(key string, pairs ...any) string { return word(v.prefs.Lang, key, pairs...) }

const prefsCookie = "sheaf_set"

// prefs are what a visitor has set. They are no secrets.
type prefs struct {
	Lang  string
	Theme string // "light", "dark", or "" as the system has it
	Zone  string // IANA name, "" for unknown
	Keys  string // "off" switches single keys off
	place *time.Location
}

func prefsOf(r *http.Request) prefs {
	set := url.Values{}
	if cookie, err := r.Cookie(prefsCookie); err == nil {
		set, _ = url.ParseQuery(cookie.Value) // a broken cookie sets nothing
	}
	p := prefs{Lang: set.Get("lang"), Theme: set.Get("theme"), Zone: set.Get("zone"), Keys: set.Get("keys"), place: time.UTC}
	if !slices.Contains(languages, p.Lang) {
		p.Lang = languageOf(r.Header.Get("Accept-Language"))
	}
	if p.Theme != "light" && p.Theme != "dark" {
		p.Theme = ""
	}
	if p.Keys != "off" {
		p.Keys = ""
	}
	if place, ok := zone(p.Zone); ok {
		p.place = place
	} else {
		p.Zone = ""
	}
	return p
}

// zone returns the zone with an IANA name. The name comes from a visitor.
func zone(name string) (*time.Location, bool) {
	if name == "" || len(name) > 64 || name == "Local" {
		return nil, false
	}
	place, err := time.LoadLocation(name)
	return place, err == nil
}

// languageOf returns the first language of Accept-Language that the pages have. Weights are rare and their
// order is that of the list.
func languageOf(accept string) string {
	for part := range strings.SplitSeq(accept, ",") {
		tag, _, _ := strings.Cut(strings.TrimSpace(part), ";")
		primary, _, _ := strings.Cut(strings.ToLower(tag), "-")
		if slices.Contains(languages, primary) {
			return primary
		}
	}
	return languages[0]
}

// set stores what a visitor chose, and goes back to a page of this server.
func (v *visit) set() error {
	set := url.Values{"lang": {v.prefs.Lang}, "theme": {v.prefs.Theme}, "zone": {v.prefs.Zone}, "keys": {v.prefs.Keys}}
	if v.r.PostFormValue("lang") == "" && !hasPrefs(v.r, "lang") {
		set.Del("lang") // the browser decides
	}
	for _, name := range []string{"lang", "theme", "zone", "keys"} {
		if v.r.PostForm.Has(name) {
			set.Set(name, v.r.PostForm.Get(name))
		}
	}
	if _, ok := zone(set.Get("zone")); !ok {
		set.Del("zone")
	}
	for name := range set {
		if len(set.Get(name)) > 64 {
			set.Del(name)
		}
	}
	v.setCookie(prefsCookie, set.Encode(), 365*24*time.Hour)
	return v.seeOther(v.base + localPath(v.r.PostFormValue("back")))
}

func hasPrefs(r *http.Request, name string) bool {
	cookie, err := r.Cookie(prefsCookie)
	if err != nil {
		return false
	}
	set, err := url.ParseQuery(cookie.Value)
	return err == nil && set.Get(name) != ""
}
