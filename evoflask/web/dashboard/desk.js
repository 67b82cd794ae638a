// Added to rq-dashboard's pages: what became of a click, which they do not tell, and the way out.
(function ($) {
    var home = $('#navbar-dashboard a[href]').first().attr('href').replace(/\d+\/view\/queues$/, '');
    var $said = $('<div role="status" id="desk-said" class="alert" style="display: none"></div>');
    $('.container').first().prepend($said);

    function say(words, kind) {
        $said.attr('class', 'alert alert-' + kind).text(words).show();
    }

    $(document).ajaxSuccess(function (event, request, settings) {
        var told = request.responseJSON || {};
        if (settings.type === 'POST' && told.message) { say(told.message, 'success'); }
    });

    $(document).ajaxError(function (event, request, settings) {
        if (request.status === 401 && settings.type !== 'POST') {
            location.assign(home + 'login?next=' + encodeURIComponent(location.pathname));
            return;
        }
        // Their pages ask on for a job that is gone, and for a list that is none: no news.
        if (settings.type !== 'POST' && request.status < 500) { return; }
        var told = (request.responseJSON || {}).response;
        say(told ? told.message.join(' ') : 'No answer.', 'danger');
    });

    $('<button class="btn btn-outline-secondary btn-sm" id="desk-logout">Log out</button>')
        .appendTo('#navbarSupportedContent')
        .on('click', function () {
            $.post(home + 'logout').always(function () { location.assign(home + 'login'); });
        });
})(jQuery);
