package node

import (
	"context"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"sheaf/storage"
)

// S3Config says how the store of --files s3://BUCKET/PREFIX is reached. Keys are never values of flags: other
// users of the machine can read the command line of a process.
type S3Config struct {
	S3Endpoint      string `name:"s3-endpoint" env:"SHEAF_S3_ENDPOINT" placeholder:"URL" help:"S3 server of --files s3://BUCKET/PREFIX, such as https://s3.oss-cn-hangzhou.aliyuncs.com. Default: AWS."`
	S3Region        string `name:"s3-region" env:"SHEAF_S3_REGION" placeholder:"REGION" help:"Region of the bucket. Default: us-east-1."`
	S3PathStyle     bool   `name:"s3-path-style" env:"SHEAF_S3_PATH_STYLE" help:"Put the bucket into the path, as MinIO and versitygw want it, not into the host name."`
	S3AccessKeyFile string `name:"s3-access-key-file" env:"SHEAF_S3_ACCESS_KEY_FILE" type:"path" placeholder:"FILE" help:"File of the access key, read again each minute. Default: AWS_ACCESS_KEY_ID of the environment, or the role of the machine on AWS."`
	S3SecretKeyFile string `name:"s3-secret-key-file" env:"SHEAF_S3_SECRET_KEY_FILE" type:"path" placeholder:"FILE" help:"File of the secret that belongs to --s3-access-key-file. Default: AWS_SECRET_ACCESS_KEY."`
	S3Redirect      bool   `name:"s3-redirect" env:"SHEAF_S3_REDIRECT" help:"Redirect downloads to signed links of the S3 server, which must be reachable for those who download."`
}

// checkFiles checks --files and the flags of S3.
func (c *Config) checkFiles(refuse func(wrong bool, format string, args ...any)) {
	scheme, rest, _ := strings.Cut(c.Files, "://")
	if c.Files != "" && scheme == "s3" {
		// The URL is not repeated: it may hold keys.
		refuse(strings.ContainsAny(rest, "@?#"), "--files s3://…: want s3://BUCKET/PREFIX alone; keys come from "+
			"AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or from --s3-access-key-file and --s3-secret-key-file")
		if _, _, err := storage.ParseS3URL(c.Files); err != nil {
			refuse(true, "--files %s: %v", c.Files, err)
		}
		c.S3Config.check(refuse)
		return
	}
	refuse(c.Files != "" && (scheme != "file" && scheme != "nats" || rest == ""),
		"--files %s: want file://FOLDER, nats://BUCKET or s3://BUCKET/PREFIX", c.Files)
	for _, f := range []struct {
		flag string
		set  bool
	}{
		{"--s3-endpoint", c.S3Endpoint != ""}, {"--s3-region", c.S3Region != ""}, {"--s3-path-style", c.S3PathStyle},
		{"--s3-access-key-file", c.S3AccessKeyFile != ""}, {"--s3-secret-key-file", c.S3SecretKeyFile != ""},
		{"--s3-redirect", c.S3Redirect},
	} {
		refuse(f.set, "%s needs --files s3://BUCKET/PREFIX", f.flag)
	}
}

func (c *S3Config) check(refuse func(wrong bool, format string, args ...any)) {
	refuse((c.S3AccessKeyFile == "") != (c.S3SecretKeyFile == ""),
		"--s3-access-key-file and --s3-secret-key-file belong together: give both or neither")
	if c.S3Endpoint == "" {
		return
	}
	u, err := url.Parse(c.S3Endpoint)
	if err != nil || u.User != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" ||
		strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		refuse(true, "--s3-endpoint: want http://HOST:PORT or https://HOST, without keys, bucket or path")
		return
	}
	_, isAddress := netip.ParseAddr(u.Hostname())
	refuse(!c.S3PathStyle && (isAddress == nil || u.Hostname() == "localhost"),
		"--s3-endpoint %s: an address cannot have the bucket in its name; add --s3-path-style", c.S3Endpoint)
}

// s3 returns the settings of an s3:// store.
func (c *S3Config) s3() storage.S3 {
	return storage.S3{
		Endpoint: c.S3Endpoint, Region: c.S3Region, PathStyle: c.S3PathStyle,
		AccessKeyFile: c.S3AccessKeyFile, SecretKeyFile: c.S3SecretKeyFile,
	}
}

// linkOfStore returns what signs links of the S3 server, nil without --s3-redirect.
func (n *node) linkOfStore() func(context.Context, string, time.Time, string, string) (string, error) {
	if s3, ok := n.files.(*storage.S3Files); ok && n.cfg.S3Redirect {
		return s3.Link
	}
	return nil
}

// files checks that an S3 store can be listed, written, read and deleted from.
func (d *doctor) files(ctx context.Context) {
	const check = "files"
	if !strings.HasPrefix(d.cfg.Files, "s3://") || !d.cfg.has(roleIngress) && !d.cfg.has(roleAssembler) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 2*doctorWait)
	defer cancel()
	if err := storage.ProbeS3(ctx, d.cfg.Files, d.cfg.s3()); err != nil {
		d.fail(check, "a start would end with this error", "%v", err)
		return
	}
	d.ok(check, "%s can be listed, written, read and deleted from", d.cfg.Files)
	if u, err := url.Parse(d.cfg.S3Endpoint); err == nil && u.Scheme == "http" && !loopbackHost(u.Hostname()) {
		d.warn(check, "use https, unless the network is yours", "files travel in clear to %s", d.cfg.S3Endpoint)
	}
}
