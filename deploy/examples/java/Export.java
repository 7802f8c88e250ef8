import com.sun.net.httpserver.HttpServer;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.InetSocketAddress;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.DigestInputStream;
import java.security.MessageDigest;
import java.time.Duration;
import java.time.Instant;
import java.util.Base64;
import java.util.HexFormat;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.regex.Pattern;
import java.util.stream.Stream;
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;

/**
 * Exports an API with Sheaf: submits, watches, downloads, verifies the callback. Needs Java 17 and no library.
 *
 * <p>The JDK has no JSON, so this example reads the few fields that it needs with patterns. Use your JSON library.
 */
public final class Export {
  private static final String SERVER = env("SHEAF_URL", "http://127.0.0.1:8080").replaceAll("/+$", "");
  private static final String API_KEY = env("SHEAF_API_KEY", "");
  private static final String SECRET = env("SHEAF_CALLBACK_SECRET", "");
  private static final String SOURCE = env("SOURCE_URL", SERVER + "/demo/page");
  private static final HttpClient HTTP = HttpClient.newBuilder().connectTimeout(Duration.ofSeconds(10)).build();

  public static void main(String[] args) throws Exception {
    CompletableFuture<String> callback = new CompletableFuture<>();
    HttpServer receiver = SECRET.isEmpty() ? null : receiveCallbacks(callback);
    String hook = receiver == null ? "" : "http://127.0.0.1:" + receiver.getAddress().getPort() + "/done";
    String body = """
        {"timestamp": %d, "ext_type": "XLSX", "title": "Orders (Java)", "user_id": "example", "callback": "%s",
         "source_http": {"url": "%s", "param": {"limit": 100}}}""".formatted(Instant.now().getEpochSecond(), hook, SOURCE);
    HttpRequest submit = request("/v1/export/http").header("Content-Type", "application/json")
        .POST(HttpRequest.BodyPublishers.ofString(body)).build();
    String key = field(checked(HTTP.send(submit, HttpResponse.BodyHandlers.ofString())), "hash_key");

    String detail = watch(key);
    if (!field(detail, "status").equals("2")) {
      throw new IllegalStateException("the export failed: " + field(detail, "fail_reason"));
    }
    Path file = Files.createTempFile("sheaf-", ".zip");
    download(detail, file);
    System.out.printf("downloaded: %d bytes, checked%n", Files.size(file));
    Files.delete(file);

    if (receiver == null) {
      System.out.println("skipped the callback: SHEAF_CALLBACK_SECRET is not set");
      return;
    }
    System.out.println("callback " + field(callback.get(30, TimeUnit.SECONDS), "event") + " verified");
    receiver.stop(1);
  }

  private static HttpRequest.Builder request(String path) {
    HttpRequest.Builder builder = HttpRequest.newBuilder(URI.create(SERVER + path)).timeout(Duration.ofMinutes(1));
    return API_KEY.isEmpty() ? builder : builder.header("Authorization", "Bearer " + API_KEY);
  }

  private static String checked(HttpResponse<String> answer) {
    if (answer.statusCode() != 200) {
      throw new IllegalStateException("HTTP " + answer.statusCode() + ": " + answer.body());
    }
    return answer.body();
  }

  /** Prints the progress of an export and returns its detail once it has ended. */
  private static String watch(String key) throws Exception {
    HttpResponse<Stream<String>> answer =
        HTTP.send(request("/v1/export/watch?key=" + key).build(), HttpResponse.BodyHandlers.ofLines());
    String[] event = {"", ""};
    try (Stream<String> lines = answer.body()) {
      lines.forEach(line -> {
        if (line.startsWith("event: ")) {
          event[0] = line.substring(7);
        } else if (line.startsWith("data: ")) {
          event[1] = line.substring(6);
          if (event[0].equals("progress")) {
            System.out.println("rows: " + field(event[1], "rows"));
          }
        }
      });
    }
    if (!event[0].equals("end")) {
      throw new IllegalStateException("the stream ended early: watch again");
    }
    return event[1];
  }

  /** Writes the file of an export and compares it with its SHA-256. */
  private static void download(String detail, Path file) throws Exception {
    HttpRequest get = HttpRequest.newBuilder(URI.create(field(detail, "down_url"))).build();
    HttpResponse<InputStream> answer = HTTP.send(get, HttpResponse.BodyHandlers.ofInputStream());
    MessageDigest digest = MessageDigest.getInstance("SHA-256");
    try (InputStream in = new DigestInputStream(answer.body(), digest); OutputStream out = Files.newOutputStream(file)) {
      in.transferTo(out);
    }
    if (answer.statusCode() != 200 || !HexFormat.of().formatHex(digest.digest()).equals(field(detail, "sha256"))) {
      throw new IllegalStateException("the file is damaged");
    }
  }

  private static HttpServer receiveCallbacks(CompletableFuture<String> callback) throws Exception {
    HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", 0), 0);
    server.createContext("/done", exchange -> {
      byte[] body = exchange.getRequestBody().readAllBytes();
      var headers = exchange.getRequestHeaders();
      boolean known = verify(headers.getFirst("webhook-id"), headers.getFirst("webhook-timestamp"),
          headers.getFirst("webhook-signature"), body);
      exchange.sendResponseHeaders(known ? 204 : 401, -1);
      exchange.close();
      if (known) {
        callback.complete(new String(body, StandardCharsets.UTF_8)); // the same webhook-id may come again
      }
    });
    server.start();
    return server;
  }

  /** Checks the signature of a callback as Standard Webhooks describes. */
  private static boolean verify(String id, String sent, String signatures, byte[] body) {
    if (id == null || sent == null || signatures == null || !sent.matches("\\d{1,12}")
        || Math.abs(Instant.now().getEpochSecond() - Long.parseLong(sent)) > 300) {
      return false;
    }
    byte[] want;
    try {
      Mac mac = Mac.getInstance("HmacSHA256");
      mac.init(new SecretKeySpec(Base64.getDecoder().decode(SECRET.replaceFirst("^whsec_", "")), "HmacSHA256"));
      mac.update((id + "." + sent + ".").getBytes(StandardCharsets.UTF_8));
      want = ("v1," + Base64.getEncoder().encodeToString(mac.doFinal(body))).getBytes(StandardCharsets.UTF_8);
    } catch (java.security.GeneralSecurityException e) {
      throw new IllegalStateException(e);
    }
    return Stream.of(signatures.split(" "))
        .anyMatch(one -> MessageDigest.isEqual(one.getBytes(StandardCharsets.UTF_8), want));
  }

  /** Returns the first member of a name, a text without escapes or a number. */
  private static String field(String json, String name) {
    var m = Pattern.compile('"' + name + "\":\\s*(?:\"([^\"]*)\"|(-?\\d+))").matcher(json);
    if (!m.find()) {
      return "";
    }
    return m.group(1) != null ? m.group(1) : m.group(2);
  }

  private static String env(String name, String otherwise) {
    String value = System.getenv(name);
    return value == null || value.isEmpty() ? otherwise : value;
  }
}
