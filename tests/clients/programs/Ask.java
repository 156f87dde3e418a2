import java.io.InputStream;
import java.net.Authenticator;
import java.net.HttpURLConnection;
import java.net.InetSocketAddress;
import java.net.PasswordAuthentication;
import java.net.ProxySelector;
import java.net.URI;
import java.net.URL;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;

/**
 * `Ask LIBRARY METHOD URL BODY`: prints what comes as it comes, then the status. With the property
 * `ask.proxy`, a proxy with its credential, it does as Java programs that know of their proxy do.
 */
class Ask {
  public static void main(String[] words) throws Exception {
    String library = words[0], method = words[1], url = words[2], body = words[3];
    Authenticator own = null;
    String proxy = System.getProperty("ask.proxy");
    if (proxy != null) {
      String[] user = URI.create(proxy).getUserInfo().split(":", 2);
      own = new Authenticator() {
        @Override
        protected PasswordAuthentication getPasswordAuthentication() {
          return new PasswordAuthentication(user[0], user[1].toCharArray());
        }
      };
    }
    int status;
    if (library.equals("client")) {
      var builder = HttpClient.newBuilder();
      if (own != null) {
        URI at = URI.create(proxy);
        builder.authenticator(own);
        builder.proxy(ProxySelector.of(new InetSocketAddress(at.getHost(), at.getPort())));
      }
      var publisher = body.isEmpty() ? BodyPublishers.noBody() : BodyPublishers.ofString(body);
      var request = HttpRequest.newBuilder(URI.create(url)).method(method, publisher).build();
      var answer = builder.build().send(request, BodyHandlers.ofInputStream());
      status = answer.statusCode();
      show(answer.body());
    } else {
      if (own != null) Authenticator.setDefault(own);
      var connection = (HttpURLConnection) new URL(url).openConnection();
      connection.setRequestMethod(method);
      if (!body.isEmpty()) {
        connection.setDoOutput(true);
        connection.getOutputStream().write(body.getBytes());
      }
      status = connection.getResponseCode();
      show(status < 400 ? connection.getInputStream() : connection.getErrorStream());
    }
    System.out.print("\nstatus=" + status);
    System.out.flush();
  }

  static void show(InputStream answer) throws Exception {
    byte[] buffer = new byte[4096];
    for (int size; (size = answer.read(buffer)) >= 0; System.out.flush()) {
      System.out.write(buffer, 0, size);
    }
  }
}
